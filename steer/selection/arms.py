"""Stage `arms`: write every arm of the configuration as data, with the dose that was chosen for it."""

import logging
from collections.abc import Mapping
from pathlib import Path

from steer.artifacts.arms import arm_digest, write_arm
from steer.artifacts.facts import read_facts
from steer.artifacts.files import read_json
from steer.artifacts.provenance import provenance
from steer.config import ArmSettings
from steer.selection.candidates import read_directions
from steer.selection.making import Dose, make_arm
from steer.selection.strength import best_places, is_tuned

log = logging.getLogger(__name__)


def _dose(
    settings: ArmSettings, choices: Mapping[str, Mapping[str, object]], name: str, selection: Path
) -> Dose:
    source = settings.like or name
    if source in choices:
        chosen = {key: value for key, value in choices[source].items() if key != "why"}
        return Dose(**chosen)  # type: ignore[arg-type]
    layer, position = best_places(settings, selection)[0]
    return Dose(
        layer,
        position,
        1.0 if settings.coefficient is None else settings.coefficient,
        settings.scope or "all",
    )


def write_arms(
    facts_path: Path,
    directions_path: Path,
    selection: Path,
    out: Path,
    arms: Mapping[str, ArmSettings],
    positions: int,
) -> None:
    """Write `<out>/<arm>.safetensors` for every arm.

    Args:
        facts_path: `model.json`.
        directions_path: `directions/refusal.safetensors`.
        selection: folder with the choices of the selection methods.
        out: folder of the arms.
        arms: the arms by name.
        positions: prompt positions that directions were estimated at.

    Raises:
        SteerError: directions or choices are missing or of another model.
    """
    facts = read_facts(facts_path)
    directions = read_directions(directions_path, facts, positions)
    choices = read_json(selection / "strength.json")["choices"]
    for name, settings in arms.items():
        if settings.operation == "none":
            dose, best = Dose(0, -1), []
        else:
            like = arms[settings.like] if settings.like else settings
            dose, best = _dose(settings, choices, name, selection), best_places(like, selection)
        arm = make_arm(name, settings, directions, dose, best)
        origin = provenance("steer.selection.arms", settings.model_dump(mode="json"), {"model": facts.digest})
        write_arm(out / f"{name}.safetensors", arm, model=facts.digest, provenance=origin)
        tuned = "tuned" if is_tuned(settings) else "as configured"
        log.info("%s: %s, %s, %s", name, arm.operations or "unsteered", tuned, arm_digest(arm))
