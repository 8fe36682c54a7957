"""Stage `arms`: write every arm of the configuration as data, with the dose that was chosen for it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steer.artifacts.arms import arm_digest, write_arm
from steer.artifacts.facts import ModelFacts, read_facts
from steer.artifacts.files import Row, read_json, write_csv
from steer.artifacts.origin import attach, input_digest
from steer.artifacts.provenance import file_digest, provenance
from steer.config import (
    ArmSettings,
    BaselineArm,
    BiasArm,
    ExpertDirectionArm,
    ExpertGateArm,
    ReplayArm,
    ResidualArm,
    RouterArm,
    SwapArm,
)
from steer.config.arm_base import DrawnArm
from steer.config.arms_fit import acts_on_experts
from steer.errors import SteerError
from steer.models.interventions import Arm, Operation
from steer.selection.candidates import Directions, digests, read_directions
from steer.selection.experts_directions import ExpertDirections, read_expert_directions
from steer.selection.experts_making import ExpertDose, dose_of, make_expert_arm, matches
from steer.selection.making import Dose, make_arm
from steer.selection.matching import COLUMNS, Match, tell
from steer.selection.ranges import read_ranges
from steer.selection.rerouted import control_matches, ranking_path, rerouted_arm
from steer.selection.strength import best_places, chosen_places, is_tuned
from steer.selection.swapping import Recorded, swap_arm

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choices:
    """What arms are made of.

    Attributes:
        facts: the model.
        positions: prompt positions that are recorded.
        sources: files of the sets that arms swap from, by the set's name.
        directions: the refusal directions; None where no arm is made of them.
        selection: folder with the choices of the selection methods.
        strength: the chosen dose of each tuned arm on the residual stream.
        expert_directions: those of experts; None where no arm needs them.
        experts: the chosen experts of each arm that has them selected.
    """

    facts: ModelFacts
    positions: int
    sources: Mapping[str, Recorded]
    directions: Directions | None
    selection: Path
    strength: Mapping[str, Any]
    expert_directions: ExpertDirections | None
    experts: Mapping[str, Any]


def write_arms(
    facts_path: Path,
    directions_path: Path | None,
    selection: Path,
    out: Path,
    arms: Mapping[str, ArmSettings],
    positions: int,
    experts_path: Path | None = None,
    sources: Mapping[str, Recorded] | None = None,
) -> None:
    """Write `<out>/<arm>.safetensors` for every arm, and `<out>/controls.csv` about matched experts.

    Args:
        facts_path: `model.json`.
        directions_path: `directions/refusal.safetensors`; None where arms only reroute.
        selection: folder with the choices of the selection methods.
        out: folder of the arms.
        arms: the arms by name.
        positions: prompt positions that directions were estimated at.
        experts_path: `directions/experts.safetensors`; None where no arm acts on experts.
        sources: files of the sets that arms swap from, by the set's name.

    Raises:
        SteerError: directions or choices are missing or of another model, the model has no experts for
            an arm to act on, or not those that it names.
    """
    facts = read_facts(facts_path)
    sources = sources or {}
    made = Choices(
        facts,
        positions,
        sources,
        read_directions(directions_path, facts, positions) if directions_path else None,
        selection,
        read_json(selection / "strength.json")["choices"] if directions_path else {},
        _expert_directions(facts, arms, positions, experts_path),
        _expert_choices(arms, selection),
    )
    chosen = {"directions": directions_path, "strength": selection / "strength.json"}
    inputs = digests(facts, **{name: path for name, path in chosen.items() if directions_path and path})
    controls: list[Row] = []
    for name, settings in arms.items():
        arm = _arm(name, arms, made)
        # An arm on the residual stream does not depend on what was found out about experts.
        source = settings.of if isinstance(settings, ReplayArm) else name
        edited = arms[source]
        more = _expert_inputs(edited, selection, experts_path)
        more |= _router_inputs(edited, selection)
        if isinstance(edited, SwapArm):
            donors = sources[edited.donor]
            more |= {"donors": file_digest(donors.prompts), "activations": input_digest(donors.activations)}
        origin = provenance("steer.selection.arms", settings.model_dump(mode="json"), inputs | more)
        path, measured = out / f"{name}.safetensors", _measured(source, edited, arm, arms, made)
        controls += [{"arm": name, **row} for row in measured.get("matched", ())]
        write_arm(path, arm, model=facts.digest, provenance=origin, measured=measured)
        tuned = "tuned" if is_tuned(settings) else "as configured"
        log.info("%s: %s, %s, %s", name, arm.operations or "unsteered", tuned, arm_digest(arm))
    write_csv(out / "controls.csv", controls, COLUMNS)
    # Adding any other arm leaves the table and its record as they are.
    known = {str(row["arm"]): arms[str(row["arm"])].model_dump(mode="json") for row in controls}
    attach(out / "controls.csv", provenance("steer.selection.arms", known, digests(facts)))


def _expert_directions(
    facts: ModelFacts, arms: Mapping[str, ArmSettings], positions: int, path: Path | None
) -> ExpertDirections | None:
    acting = [name for name, settings in arms.items() if acts_on_experts(settings)]
    if acting and not facts.moe_layers:
        raise SteerError(
            f"arm `{acting[0]}`",
            f"acts on experts, and {facts.path} (family `{facts.family}`) is dense",
            "remove the arm, or study a model with MoE layers",
        )
    if not any(arm.uses_experts for arm in arms.values()):
        return None
    if path is None:
        raise SteerError(
            f"arm `{acting[0]}`", "needs the directions of the experts", "give them with --experts"
        )
    return read_expert_directions(path, facts, positions)


def _expert_choices(arms: Mapping[str, ArmSettings], selection: Path) -> Mapping[str, Any]:
    if not any(arm.selected for arm in arms.values()):
        return {}
    choices: Mapping[str, Any] = read_json(selection / "experts.json")["choices"]
    return choices


def _expert_inputs(settings: ArmSettings, selection: Path, experts_path: Path | None) -> dict[str, str]:
    if not settings.uses_experts or experts_path is None:
        return {}
    inputs = {"experts": file_digest(experts_path)}
    choice = selection / "experts.json"
    return {**inputs, "choice": file_digest(choice)} if choice.is_file() else inputs


def _router_inputs(settings: ArmSettings, selection: Path) -> dict[str, str]:
    inputs = {}
    if settings.detected:
        inputs["rerouting"] = file_digest(selection / "rerouting.json")
        if isinstance(settings, RouterArm) and settings.ranking:
            inputs["ranking"] = file_digest(ranking_path(selection, settings.ranking))
    if isinstance(settings, BiasArm):
        inputs["ranges"] = file_digest(selection / "ranges.csv")
    return inputs


def _measured(
    name: str, settings: ArmSettings, arm: Arm, arms: Mapping[str, ArmSettings], made: Choices
) -> dict[str, Any]:
    """The controls of experts with how often all are called, and the range, by layer, of shifted logits."""
    measured: dict[str, Any] = {}
    if isinstance(settings, DrawnArm) and (found := _matched(name, settings, arms, made)):
        tell(name, found, settings.polarity)
        measured["matched"] = [match.row(settings.polarity) for match in found]
    if isinstance(settings, BiasArm):
        shifted = (*arm.operations, *arm.twin)
        layers = {one.layer for one in shifted if one.operation == "bias_router"}
        ranges = read_ranges(made.selection / "ranges.csv")
        measured["router_range"] = {str(layer): size for layer, size in ranges.items() if layer in layers}
    return measured


def _matched(
    name: str, settings: ArmSettings, arms: Mapping[str, ArmSettings], made: Choices
) -> tuple[Match, ...]:
    """The experts of a control with those that it stands for; none of another arm."""
    if isinstance(settings, RouterArm) and settings.experts == "random":
        return control_matches(name, settings, made.selection)
    if isinstance(settings, ExpertDirectionArm | ExpertGateArm) and settings.experts == "matched":
        assert made.expert_directions is not None
        return matches(settings, made.expert_directions, _expert_dose(name, arms, made))
    return ()


def _arm(name: str, arms: Mapping[str, ArmSettings], made: Choices) -> Arm:
    settings = arms[name]
    if isinstance(settings, BaselineArm):
        return Arm(name)
    if isinstance(settings, RouterArm):
        return rerouted_arm(name, settings, made.selection)
    if isinstance(settings, ReplayArm):
        return taken_apart(name, settings, _arm(settings.of, arms, made))
    if isinstance(settings, SwapArm):
        # Nothing is chosen where the layers are named.
        layer = 0 if settings.layers else chosen_places(settings.selection, made.selection)[0][0]
        return swap_arm(name, settings, made.facts, made.sources, layer, made.positions)
    if isinstance(settings, ResidualArm):
        source = settings.like or name
        if made.directions is None:
            raise SteerError(f"arm `{name}`", "needs the refusal directions", "give them with --directions")
        dose = _dose(source, arms[source], made)
        return make_arm(name, settings, made.directions, dose, _best(arms[source], made.selection))
    assert made.expert_directions is not None
    return make_expert_arm(name, settings, made.expert_directions, _expert_dose(name, arms, made))


def taken_apart(name: str, settings: ReplayArm, whole: Arm) -> Arm:
    """One half of what an arm does: its edits under the unsteered routing, or its routing alone."""
    replay = Operation("replay_routing")
    if settings.part == "edits":
        return replace(whole, name=name, operations=(*whole.operations, replay))
    return replace(whole, name=name, operations=(replay,), twin=whole.operations)


def _dose(name: str, settings: ArmSettings, made: Choices) -> Dose:
    """The dose of a tuned arm as it was chosen; of another one as its settings and selection say."""
    assert isinstance(settings, ResidualArm)
    if name in made.strength:
        chosen = made.strength[name]
        return Dose(chosen["layer"], chosen["position"], chosen["coefficient"], chosen["scope"])
    layer, position = best_places(settings, made.selection)[0]
    coefficient = 1.0 if settings.coefficient is None else settings.coefficient
    return Dose(layer, position, coefficient, settings.scope or "all")


def _best(settings: ArmSettings, selection: Path) -> list[tuple[int, int]]:
    assert isinstance(settings, ResidualArm)
    return best_places(settings, selection)


def _expert_dose(name: str, arms: Mapping[str, ArmSettings], made: Choices) -> ExpertDose:
    settings = arms[name]
    assert isinstance(settings, ExpertDirectionArm | ExpertGateArm)
    source = settings.like or name
    other = arms[source]
    assert isinstance(other, ExpertDirectionArm | ExpertGateArm)
    return dose_of(other, made.experts.get(source))
