"""Stage `arms`: write every arm of the configuration as data, with the dose that was chosen for it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steer.artifacts.arms import arm_digest, write_arm
from steer.artifacts.facts import read_facts
from steer.artifacts.files import read_json
from steer.artifacts.provenance import provenance
from steer.config import ArmSettings
from steer.models.interventions import Arm
from steer.selection.candidates import Directions, digests, read_directions
from steer.selection.making import Dose, make_arm
from steer.selection.rerouted import rerouted_arm
from steer.selection.strength import best_places, is_tuned

log = logging.getLogger(__name__)


def _dose(name: str, settings: ArmSettings, choices: Mapping[str, Any], selection: Path) -> Dose:
    """The dose of a tuned arm as it was chosen; of another one as its settings and selection say."""
    if name in choices:
        chosen = choices[name]
        return Dose(chosen["layer"], chosen["position"], chosen["coefficient"], chosen["scope"])
    layer, position = best_places(settings, selection)[0]
    coefficient = 1.0 if settings.coefficient is None else settings.coefficient
    return Dose(layer, position, coefficient, settings.scope or "all")


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
    inputs = digests(facts, directions=directions_path, strength=selection / "strength.json")
    if any(settings.operation == "reroute" for settings in arms.values()):
        inputs |= digests(facts, rerouting=selection / "rerouting.json")
    for name, settings in arms.items():
        arm = _arm(name, arms, directions, choices, selection)
        origin = provenance("steer.selection.arms", settings.model_dump(mode="json"), inputs)
        write_arm(out / f"{name}.safetensors", arm, model=facts.digest, provenance=origin)
        tuned = "tuned" if is_tuned(settings) else "as configured"
        log.info("%s: %s, %s, %s", name, arm.operations or "unsteered", tuned, arm_digest(arm))


def _arm(
    name: str,
    arms: Mapping[str, ArmSettings],
    directions: Directions,
    choices: Mapping[str, Any],
    selection: Path,
) -> Arm:
    settings = arms[name]
    if settings.operation == "none":
        return Arm(name)
    if settings.operation == "reroute":
        return rerouted_arm(name, settings, selection)
    source = settings.like or name
    dose = _dose(source, arms[source], choices, selection)
    return make_arm(name, settings, directions, dose, best_places(arms[source], selection))
