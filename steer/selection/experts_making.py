"""From a setting of the configuration to the tensors and operations of an arm on experts and routers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from steer.config import ExpertDirectionArm, ExpertGateArm
from steer.errors import SteerError
from steer.judges.behaviours import REFUSAL, Behaviour
from steer.models.interventions import Arm, Operation, Scope, unit
from steer.selection.experts_directions import ExpertDirections
from steer.selection.making import random_like, sign_of
from steer.selection.matching import Match, matched_experts

Pair = tuple[int, int]


@dataclass(frozen=True)
class ExpertDose:
    """On which experts, where and how strongly an arm acts.

    Attributes:
        experts: (layer, expert) pairs; empty for all experts of `layer`.
        layer: the layer of `experts_add`; None for named experts.
        position: prompt position, from the end, that directions were estimated at.
        coefficient: multiple of the directions, without the polarity's sign.
        scope: tokens that are edited.
        bottom: experts of the same layers that the selection ranked last, as many.
    """

    experts: tuple[Pair, ...]
    layer: int | None = None
    position: int = -1
    coefficient: float = 1.0
    scope: Scope = "all"
    bottom: tuple[Pair, ...] = ()


def dose_of(settings: ExpertDirectionArm | ExpertGateArm, chosen: Mapping[str, Any] | None) -> ExpertDose:
    """The dose of an arm that is like no other: as it was chosen, or as its settings say.

    Raises:
        SteerError: its experts were to be selected, and none were.
    """
    scope = settings.scope or "all"
    if isinstance(settings, ExpertGateArm):
        return ExpertDose(_pairs(settings.experts), scope=scope)
    if not settings.selected:
        position = -1 if settings.position is None else settings.position
        coefficient = 1.0 if settings.coefficient is None else settings.coefficient
        return ExpertDose(_pairs(settings.experts), settings.layer, position, coefficient, scope)
    if chosen is None:
        raise SteerError(
            "selection/experts.json", "chose nothing for the arm", "run the experts selection again"
        )
    layer = chosen["layer"] if settings.operation == "experts_add" else None
    experts, bottom = (_pairs(chosen[name]) for name in ("experts", "bottom"))
    return ExpertDose(experts, layer, chosen["position"], chosen["coefficient"], chosen["scope"], bottom)


def _pairs(pairs: Any) -> tuple[Pair, ...]:
    return tuple((int(layer), int(expert)) for layer, expert in pairs or ())


def matches(
    settings: ExpertDirectionArm | ExpertGateArm,
    directions: ExpertDirections,
    dose: ExpertDose,
    behaviour: Behaviour,
) -> tuple[Match, ...]:
    """The experts of the dose of a matched arm, each with its control.

    Raises:
        SteerError: an expert is not there, or a layer has too few.
    """
    for layer, expert in dose.experts:
        directions.check(layer, [expert])
    side = behaviour.told_on(settings.polarity)
    return matched_experts(directions.rates(), dose.experts, side, settings.seed)


def _picked(
    name: str,
    settings: ExpertDirectionArm | ExpertGateArm,
    directions: ExpertDirections,
    dose: ExpertDose,
    behaviour: Behaviour,
) -> tuple[Pair, ...]:
    """The experts that an arm acts on: those of its dose, or controls for them."""
    if settings.experts == "matched":
        return tuple(match.control for match in matches(settings, directions, dose, behaviour))
    if settings.experts == "bottom":
        if not dose.bottom:
            cause = f"wants the bottom of a ranking, but `{settings.like}` names its experts itself"
            raise SteerError(f"arm `{name}`", cause, "make it like an arm whose experts are selected")
        return dose.bottom
    return _pairs(settings.experts) or dose.experts


def by_layer(pairs: Sequence[Pair]) -> dict[int, list[int]]:
    """Experts of each layer, layers rising."""
    layers: dict[int, list[int]] = {layer: [] for layer in sorted({layer for layer, _ in pairs})}
    for layer, expert in pairs:
        layers[layer].append(expert)
    return layers


def make_expert_arm(
    name: str,
    settings: ExpertDirectionArm | ExpertGateArm,
    directions: ExpertDirections,
    dose: ExpertDose,
    behaviour: Behaviour = REFUSAL,
) -> Arm:
    """Build an arm on experts.

    Args:
        name: its name.
        settings: what it does.
        directions: the estimated directions.
        dose: on which experts, where and how strongly; its own, or that of the arm that it is like.
        behaviour: what is steered, which says what side the effect is told on.

    Raises:
        SteerError: an expert, layer or position does not exist, or a control can't be picked.
    """
    pairs = _picked(name, settings, directions, dose, behaviour)
    if isinstance(settings, ExpertGateArm):
        return _gated(name, settings, directions, pairs, dose.scope)
    if settings.operation == "experts_add":
        assert dose.layer is not None
        groups = {dose.layer: list(range(directions.experts))}
    else:
        groups = by_layer(pairs)
    operations, tensors = [], {}
    for layer, experts in groups.items():
        vectors = directions.at(settings.estimator, layer, experts, dose.position)
        key = f"directions_{layer}"
        tensors[key] = _tensor(settings, vectors)
        operations.append(_operation(settings, key, layer, experts, dose))
    return Arm(name, tuple(operations), tensors)


def _operation(
    settings: ExpertDirectionArm, tensor: str, layer: int, experts: Sequence[int], dose: ExpertDose
) -> Operation:
    if settings.operation == "expert_ablate":
        return Operation("expert_ablate", tensor, layer, 1.0, dose.scope, tuple(experts))
    named = () if settings.operation == "experts_add" else tuple(experts)
    coefficient = sign_of(settings.polarity) * dose.coefficient
    return Operation(
        settings.operation, tensor, layer, coefficient, dose.scope, named, weighting=settings.weighting
    )


def _tensor(settings: ExpertDirectionArm, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """The directions of the experts, or random ones of their norms; unit ones for an ablation."""
    if settings.direction == "random":
        vectors = random_like(vectors, settings.seed)
    return unit(vectors) if settings.operation == "expert_ablate" else vectors.contiguous()


def _gated(
    name: str, settings: ExpertGateArm, directions: ExpertDirections, pairs: Sequence[Pair], scope: Scope
) -> Arm:
    operations = []
    for layer, experts in by_layer(pairs).items():
        directions.check(layer, experts)
        coefficient = settings.factor if settings.operation == "scale_experts" else 1.0
        operations.append(
            Operation(
                settings.operation,
                layer=layer,
                coefficient=coefficient,
                scope=scope,
                experts=tuple(experts),
            )
        )
    return Arm(name, tuple(operations))
