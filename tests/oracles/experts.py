"""Edits of routers and experts, one token at a time in numpy and float64, as the papers write them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steer.models.interventions import Operation

Array = NDArray[np.float64]
ROUTER = ("bias_router", "reroute", "mask_experts", "scale_experts")
MIXTURE = ("expert_add", "experts_add", "expert_ablate")


@dataclass
class Decision:
    """Chosen experts of a token, their weights, and how many should not have been chosen."""

    chosen: NDArray[np.intp]
    weights: Array
    leaked: int

    def gates(self, count: int) -> Array:
        """Weight of every expert."""
        gates = np.zeros(count)
        gates[self.chosen] = self.weights
        return gates


def softmax(z: Array) -> Array:
    """Shares of all experts."""
    raised: Array = np.exp(z - z.max())
    return raised / raised.sum()


def decide(z: Array, operations: Sequence[Operation], top_k: int, renormalise: bool) -> Decision:
    """The model's own rule on edited logits: softmax, the k largest, divided by their sum if it says so."""
    shares = softmax(scores(z, operations, top_k))
    chosen = np.argsort(-shares, kind="stable")[:top_k]
    weights = shares[chosen]
    if renormalise:
        weights = weights / weights.sum()
    for one in operations:
        if one.operation == "scale_experts":
            weights = np.where(np.isin(chosen, one.experts), weights * one.coefficient, weights)
    return Decision(chosen, weights, len(avoided(operations) & set(chosen.tolist())))


def scores(z: Array, operations: Sequence[Operation], top_k: int) -> Array:
    """What the rule chooses by: logits shifted, then rerouted, then masked."""
    s = z.copy()
    for one in operations:
        if one.operation == "bias_router":
            s[list(one.activate)] += one.coefficient
            s[list(one.deactivate)] -= one.coefficient
    rerouting = [one for one in operations if one.operation == "reroute" and (one.activate or one.deactivate)]
    if rerouting:
        s = np.log(softmax(s))
        highest, lowest = s.max(), s.min()
        s[[expert for one in rerouting for expert in one.activate][:top_k]] = highest + 0.01
        s[[expert for one in rerouting for expert in one.deactivate]] = lowest - 0.01
    for one in operations:
        if one.operation == "mask_experts":
            s[list(one.experts)] = -np.inf
    return s


def avoided(operations: Sequence[Operation]) -> set[int]:
    """Experts that should not be chosen."""
    masked = {e for one in operations if one.operation == "mask_experts" for e in one.experts}
    return masked | {e for one in operations if one.coefficient for e in one.deactivate}


def mixture(
    z: Array,
    decision: Decision,
    expert: Callable[[int], Array],
    operations: Sequence[Operation],
    tensors: Mapping[str, Array],
) -> tuple[Array, Array]:
    """What the experts write without and with the operations on it."""
    before, after = 0.0, 0.0
    for e, weight in zip(decision.chosen.tolist(), decision.weights, strict=True):
        output = expert(e)
        before = before + weight * output
        for one in operations:
            if one.operation == "expert_ablate" and e in one.experts:
                v = tensors[one.tensor][one.experts.index(e)]
                output = output - one.coefficient * (output @ v) / (v @ v) * v
        after = after + weight * output
    count, shares = len(z), softmax(z)
    for one in operations:
        named = one.experts if one.operation == "expert_add" else range(count)
        if one.operation != "expert_ablate":
            for v, e in zip(tensors[one.tensor], named, strict=True):
                w = {"routed": decision.gates(count)[e], "full": shares[e], "one": 1.0}[one.weighting]
                after = after + one.coefficient * w * v
    return np.asarray(before), np.asarray(after)
