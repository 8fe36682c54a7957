"""Stage `arms`: write every arm of the configuration as data, with the dose that was chosen for it."""

import logging
from collections.abc import Iterable, Mapping, Sequence, Set
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
from steer.config.arms_fit import acts_on_experts, like_of
from steer.errors import SteerError
from steer.judges.behaviours import REFUSAL, Behaviour
from steer.models.interventions import Arm, Operation
from steer.selection.candidates import Directions, digests, read_directions
from steer.selection.experts_directions import ExpertDirections, read_expert_directions
from steer.selection.experts_making import ExpertDose, dose_of, make_expert_arm, matches
from steer.selection.making import Dose, make_arm
from steer.selection.matching import CLASSES, COLUMNS, SIDES, Match, tell
from steer.selection.ranges import read_ranges
from steer.selection.repeats import done_by, warn_of_repeats
from steer.selection.rerouted import control_matches, ranking_of, ranking_path, rerouted_arm
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
        behaviour: what is steered.
        by_class: contrasts whose sides are harmful and harmless prompts.
    """

    facts: ModelFacts
    positions: int
    sources: Mapping[str, Recorded]
    directions: Directions | None
    selection: Path
    strength: Mapping[str, Any]
    expert_directions: ExpertDirections | None
    experts: Mapping[str, Any]
    behaviour: Behaviour
    by_class: Set[str]


def write_arms(
    facts_path: Path,
    directions_path: Path | None,
    selection: Path,
    out: Path,
    arms: Mapping[str, ArmSettings],
    positions: int,
    experts_path: Path | None = None,
    sources: Mapping[str, Recorded] | None = None,
    behaviour: Behaviour = REFUSAL,
    by_class: Set[str] = frozenset(),
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
        behaviour: what is steered, which says what side of a contrast an effect is told on.
        by_class: contrasts whose sides are harmful and harmless prompts; sides of others have no such names.

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
        behaviour,
        by_class,
    )
    chosen = {"directions": directions_path, "strength": selection / "strength.json"}
    inputs = digests(facts, **{name: path for name, path in chosen.items() if directions_path and path})
    controls: list[Row] = []
    drawn: dict[str, tuple[str, str]] = {}
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
        if isinstance(settings, DrawnArm) and settings.pool:
            drawn[name] = (settings.pool, done_by(arm))
        write_arm(path, arm, model=facts.digest, provenance=origin, measured=measured)
        tuned = "tuned" if is_tuned(settings) else "as configured"
        log.info("%s: %s, %s, %s", name, arm.operations or "unsteered", tuned, arm_digest(arm))
    warn_of_repeats(drawn)
    _write_controls(out / "controls.csv", controls, arms, made, experts_path)


def _write_controls(
    path: Path,
    controls: Sequence[Row],
    arms: Mapping[str, ArmSettings],
    made: Choices,
    experts_path: Path | None,
) -> None:
    write_csv(path, controls, COLUMNS)
    # Adding any other arm leaves the table and its record as they are.
    matched = {str(row["arm"]): arms[str(row["arm"])] for row in controls}
    likes = {like: arms[like] for arm in matched.values() if (like := like_of(arm))}
    known = {name: arm.model_dump(mode="json") for name, arm in (matched | likes).items()}
    inputs = digests(made.facts, **_control_inputs(matched.values(), made.selection, experts_path))
    attach(path, provenance("steer.selection.arms", known, inputs))


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


def _control_inputs(
    matched: Iterable[ArmSettings], selection: Path, experts_path: Path | None
) -> dict[str, Path]:
    """The files that matched experts are picked by, and those that they stand for."""
    files: dict[str, Path] = {}
    for settings in matched:
        if isinstance(settings, RouterArm):
            ranking = ranking_of(settings, selection)
            files["rerouting"] = selection / "rerouting.json"
            files[f"ranking {ranking}"] = ranking_path(selection, ranking)
        elif experts_path is not None:
            files["experts"], choice = experts_path, selection / "experts.json"
            files |= {"choice": choice} if choice.is_file() else {}
    return files


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
        side, called = made.behaviour.told_on(settings.polarity), _called(settings, made)
        tell(name, found, side, called)
        measured["matched"] = [match.row(side, called) for match in found]
    if isinstance(settings, BiasArm):
        shifted = (*arm.operations, *arm.twin)
        layers = {one.layer for one in shifted if one.operation == "bias_router"}
        ranges = read_ranges(made.selection / "ranges.csv")
        measured["router_range"] = {str(layer): size for layer, size in ranges.items() if layer in layers}
    return measured


def _called(settings: DrawnArm, made: Choices) -> tuple[str, str]:
    """What the sides are called that an arm's experts were counted on; directions are of the two classes."""
    if isinstance(settings, RouterArm) and ranking_of(settings, made.selection) not in made.by_class:
        return SIDES
    return CLASSES


def _matched(
    name: str, settings: ArmSettings, arms: Mapping[str, ArmSettings], made: Choices
) -> tuple[Match, ...]:
    """The experts of a control with those that it stands for; none of another arm."""
    if isinstance(settings, RouterArm) and settings.experts == "random":
        return control_matches(name, settings, made.selection, made.behaviour)
    if isinstance(settings, ExpertDirectionArm | ExpertGateArm) and settings.experts == "matched":
        assert made.expert_directions is not None
        dose = _expert_dose(name, arms, made)
        return matches(settings, made.expert_directions, dose, made.behaviour)
    return ()


def _arm(name: str, arms: Mapping[str, ArmSettings], made: Choices) -> Arm:
    settings = arms[name]
    if isinstance(settings, BaselineArm):
        return Arm(name)
    if isinstance(settings, RouterArm):
        return rerouted_arm(name, settings, made.selection, made.behaviour)
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
    experts = _expert_dose(name, arms, made)
    return make_expert_arm(name, settings, made.expert_directions, experts, made.behaviour)


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
