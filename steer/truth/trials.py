"""What is tried on a planted model: the named parts, alone and together, and others to compare with."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from steer.artifacts.facts import Part, Truth
from steer.models.interventions import Arm, Component, Operation, unit
from steer.truth.usage import Usage

Role = Literal["baseline", "carriers", "carrier", "decoy", "control"]
Way = Literal[
    "none", "mask_experts", "reroute_from", "reroute_to", "mask_heads", "ablate_attention", "ablate_mlp"
]
DIRECTION = "direction"
AWAY: tuple[Way, ...] = ("mask_experts", "reroute_from")
EVERY: tuple[Way, ...] = (*AWAY, "reroute_to")


@dataclass(frozen=True)
class Trial:
    """One thing that is tried.

    Attributes:
        role: what the parts are by the truth; `control` is none of them.
        parts: experts or heads, each (layer, number); none where all of a component is tried.
        way: what is done to them.
    """

    role: Role
    parts: tuple[Part, ...] = ()
    way: Way = "none"

    @property
    def name(self) -> str:
        """The parts, as `layer:number` separated by blanks."""
        return " ".join(f"{layer}:{number}" for layer, number in self.parts)

    @property
    def arm(self) -> Arm:
        """The intervention; an ablation lacks its direction (`aimed`)."""
        if self.way in ("ablate_attention", "ablate_mlp"):
            component: Component = "attention" if self.way == "ablate_attention" else "mlp"
            return Arm(self.way, (Operation("ablate", DIRECTION, component=component),))
        layers: dict[int, list[int]] = defaultdict(list)
        for layer, number in self.parts:
            layers[layer].append(number)
        operations = tuple(_operation(self.way, layer, tuple(found)) for layer, found in layers.items())
        return Arm(f"{self.way} {self.name}".strip(), operations)


def aimed(arm: Arm, direction: Float[Tensor, " d"]) -> Arm:
    """The arm with the direction that its ablation takes out; any other arm as it is."""
    if all(operation.tensor != DIRECTION for operation in arm.operations):
        return arm
    return replace(arm, tensors={DIRECTION: unit(direction)[None]})


def _operation(way: Way, layer: int, numbers: tuple[int, ...]) -> Operation:
    if way == "mask_heads":
        return Operation("mask_heads", layer=layer, heads=numbers)
    if way == "mask_experts":
        return Operation("mask_experts", layer=layer, experts=numbers)
    if way == "reroute_to":
        return Operation("reroute", layer=layer, activate=numbers)
    return Operation("reroute", layer=layer, deactivate=numbers)


def trials(truth: Truth, usage: Mapping[Part, Usage], layers: int, heads: int, controls: int) -> list[Trial]:
    """Everything to try: the baseline, the named parts, and others that are as like them as can be."""
    found = [Trial("baseline")]
    ways: dict[str, tuple[Way, ...]] = {"experts": EVERY, "heads": ("mask_heads",), "distributed": ()}
    found += [Trial("carriers", truth.carriers, way) for way in ways[truth.carrier]]
    if len(truth.carriers) > 1:
        away = AWAY if truth.carrier == "experts" else ways[truth.carrier]
        found += [Trial("carrier", (part,), way) for part in truth.carriers for way in away]
    if truth.carrier == "distributed":
        # Of what the last layer hands on, only what attention wrote may carry refusal.
        found += [Trial("carriers", (), "ablate_attention"), Trial("control", (), "ablate_mlp")]
    found += [Trial("decoy", (part,), way) for part in truth.decoys for way in EVERY]
    experts = matched_experts(truth, usage, controls)
    found += [Trial("control", (part,), "mask_experts") for part in experts]
    if truth.carrier == "experts":
        sets = matched_sets(truth, usage, controls)
        found += [Trial("control", parts, "reroute_from") for parts in sets]
    else:
        others = matched_heads(truth, layers, heads, controls)
        found += [Trial("control", (part,), "mask_heads") for part in others]
    return found


def matched_experts(truth: Truth, usage: Mapping[Part, Usage], count: int) -> list[Part]:
    """Experts that the truth doesn't name, the nearest to its experts in use on harmful prompts first."""
    aims = [usage[part].harmful for part in sorted(truth.experts)] or [1.0]
    others = [part for part in sorted(usage) if part not in truth.experts]
    return sorted(others, key=lambda part: min(abs(usage[part].harmful - aim) for aim in aims))[:count]


def matched_sets(truth: Truth, usage: Mapping[Part, Usage], count: int) -> list[tuple[Part, ...]]:
    """Sets of experts that the truth doesn't name, each with one in the layer of every carrier.

    The first set takes those nearest to the carriers in use on harmful prompts, each further one the nearest
    of those that are left; fewer than `count` where a layer has none left. A set leaves every layer as many
    experts as the carriers do: two out of one layer is another loss than one out of each of two.
    """
    free = [part for part in sorted(usage) if part not in truth.experts]
    sets: list[tuple[Part, ...]] = []
    for _ in range(count):
        taken: list[Part] = []
        for carrier in truth.carriers:
            own = [part for part in free if part[0] == carrier[0]]
            if not own:
                return sets
            taken.append(min(own, key=lambda part: abs(usage[part].harmful - usage[carrier].harmful)))
            free.remove(taken[-1])
        sets.append(tuple(taken))
    return sets


def matched_heads(truth: Truth, layers: int, heads: int, count: int) -> list[Part]:
    """Heads that the truth doesn't name, of its layers first.

    Heads of the first layer come last: they are the previous-token heads that all copying needs, so that
    without one any text breaks.
    """
    own = [layer for layer, _ in truth.heads] or [layers - 1]
    every = [(layer, head) for layer in range(layers) for head in range(heads)]
    others = [part for part in every if part not in truth.heads]
    return sorted(others, key=lambda part: (part[0] == 0, min(abs(part[0] - layer) for layer in own)))[:count]


def role_of(part: Part, truth: Truth, tried: Sequence[Trial]) -> str:
    """What an expert is: a carrier, a decoy, a control, or an empty text."""
    if part in truth.decoys:
        return "decoy"
    if truth.carrier == "experts" and part in truth.carriers:
        return "carrier"
    return "control" if any(part in one.parts and one.way in AWAY for one in tried) else ""
