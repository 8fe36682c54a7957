"""Arms that reroute: the experts that were detected, or controls for them."""

from pathlib import Path

from steer.artifacts.files import read_json
from steer.artifacts.routing import read_routing
from steer.config import RerouteArm
from steer.errors import SteerError
from steer.models.interventions import Arm
from steer.selection.picks import Pick, bottom, detected, random_matched, reroute_arm


def rerouted_arm(name: str, settings: RerouteArm, selection: Path) -> Arm:
    """Build an arm that reroutes.

    Args:
        name: its name.
        settings: polarity, which experts, and how many; what is not given is as it was chosen.
        selection: folder with `rerouting.json`; the ranking stands in `routing/` beside it.

    Raises:
        SteerError: the choice or the ranking is missing, there are fewer experts than are asked for, or
            none are asked for.
    """
    if not settings.detected:
        return reroute_arm(name, Pick(settings.activate, settings.deactivate))  # type: ignore[arg-type]
    record = read_json(selection / "rerouting.json")
    choice = record["choices"].get(settings.polarity, {"activated": 0, "deactivated": 0})
    activated = choice["activated"] if settings.activated is None else settings.activated
    deactivated = choice["deactivated"] if settings.deactivated is None else settings.deactivated
    if not activated and not deactivated:
        cause = "reroutes no experts: none were chosen, and none are given"
        raise SteerError(f"arm `{name}`", cause, "give it `activated` and `deactivated`")
    ranking = read_routing(ranking_path(selection, record["ranking"]))
    pick = detected(ranking, settings.polarity, activated, deactivated)
    controls = {
        "detected": lambda: pick,
        "random": lambda: random_matched(ranking, pick, settings.seed),
        "bottom": lambda: bottom(ranking, pick),
    }
    found: Pick = controls[settings.experts]()
    return reroute_arm(name, found)


def ranking_path(selection: Path, ranking: str) -> Path:
    """The routing table of a contrast, beside the folder of choices."""
    return selection.parent / "routing" / f"{ranking}.csv"
