"""Arms on routers: the experts that were detected, or controls for them."""

from collections.abc import Mapping
from pathlib import Path

from steer.artifacts.files import read_json
from steer.artifacts.routing import Column, read_routing
from steer.config import BiasArm, RouterArm
from steer.errors import SteerError
from steer.judges.behaviours import REFUSAL, Behaviour
from steer.models.interventions import EPSILON, Arm
from steer.selection.matching import Match
from steer.selection.picks import (
    Pick,
    bias_arm,
    bottom,
    controls_of,
    detected,
    random_matched,
    reroute_arm,
)
from steer.selection.ranges import read_ranges


def rerouted_arm(name: str, settings: RouterArm, selection: Path, behaviour: Behaviour = REFUSAL) -> Arm:
    """Build an arm that pushes experts into the routers' choice, or out of it.

    Args:
        name: its name.
        settings: polarity, which experts of which ranking, and how many; what is not given is as it was
            chosen.
        selection: folder with `rerouting.json`, and `ranges.csv` for `bias_router`; the ranking stands in
            `routing/` beside it.
        behaviour: what is steered, which says what side the effect is told on.

    Raises:
        SteerError: the choice or the ranking is missing, there are fewer experts than are asked for, or
            none are asked for.
    """
    pick = _pick(name, settings, selection, behaviour)
    if not isinstance(settings, BiasArm):
        return reroute_arm(name, pick)
    ranges = read_ranges(selection / "ranges.csv")
    if unknown := sorted({layer for layer, _ in (*pick.activate, *pick.deactivate)} - {*ranges}):
        cause = f"acts on layers {unknown}, and routers are in {sorted(ranges)}"
        raise SteerError(f"arm `{name}`", cause, "name experts of those layers")
    shifts = {layer: settings.strength * size + EPSILON for layer, size in ranges.items()}
    return bias_arm(name, pick, shifts)


def control_matches(
    name: str, settings: RouterArm, selection: Path, behaviour: Behaviour
) -> tuple[Match, ...]:
    """The detected experts of a random arm, activated ones first, each with its control.

    Raises:
        SteerError: as `rerouted_arm`.
    """
    ranking, pick = _detected(name, settings, selection)
    return random_matched(ranking, pick, behaviour.told_on(settings.polarity), settings.seed)


def _pick(name: str, settings: RouterArm, selection: Path, behaviour: Behaviour) -> Pick:
    """The experts: as named, as detected, or controls for those detected."""
    if not settings.detected:
        return Pick(settings.activate, settings.deactivate)  # type: ignore[arg-type]
    ranking, pick = _detected(name, settings, selection)
    if settings.experts == "random":
        found = control_matches(name, settings, selection, behaviour)
        return controls_of(found, len(pick.activate))
    return bottom(ranking, pick) if settings.experts == "bottom" else pick


def _detected(name: str, settings: RouterArm, selection: Path) -> tuple[Mapping[str, Column], Pick]:
    """The ranking, and as many of its ends as were chosen or are given."""
    record = read_json(selection / "rerouting.json")
    named = settings.ranking or record["ranking"]
    # What was chosen was chosen for one ranking.
    choices = record["choices"] if named == record["ranking"] else {}
    choice = choices.get(settings.polarity, {"activated": 0, "deactivated": 0})
    activated = choice["activated"] if settings.activated is None else settings.activated
    deactivated = choice["deactivated"] if settings.deactivated is None else settings.deactivated
    if not activated and not deactivated:
        cause = "acts on no experts: none were chosen, and none are given"
        raise SteerError(f"arm `{name}`", cause, "give it `activated` and `deactivated`")
    ranking = read_routing(ranking_path(selection, named))
    return ranking, detected(ranking, settings.polarity, activated, deactivated)


def ranking_of(settings: RouterArm, selection: Path) -> str:
    """The contrast whose ranking an arm takes experts of."""
    return settings.ranking or str(read_json(selection / "rerouting.json")["ranking"])


def ranking_path(selection: Path, ranking: str) -> Path:
    """The routing table of a contrast, beside the folder of choices."""
    return selection.parent / "routing" / f"{ranking}.csv"
