"""Routing rules: router logits in, the experts that are used and their weights out."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

Routing = tuple[Float[Tensor, "*tokens chosen"], Int[Tensor, "*tokens chosen"]]


@dataclass(frozen=True)
class Rule:
    """How a family turns router logits into a choice.

    Attributes:
        name: what the rule is called in `model.json`.
        top_k: experts chosen per token.
        route: logits `[..., E]` to (weights `[..., K]` as the model uses them, index `[..., K]`),
            by falling weight.
    """

    name: str
    top_k: int
    route: Callable[[Float[Tensor, "*tokens experts"]], Routing]


def softmax_then_top_k(top_k: int, *, renormalise: bool) -> Rule:
    """Softmax over all experts in float32, then the k largest (Shazeer et al. 2017, as OLMoE does it).

    Args:
        top_k: experts chosen per token.
        renormalise: whether the k weights are divided by their sum.
    """

    def route(logits: Float[Tensor, "*tokens experts"]) -> Routing:
        weights, index = torch.topk(torch.softmax(logits, dim=-1, dtype=torch.float32), top_k, dim=-1)
        if renormalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights.to(logits.dtype), index

    name = "softmax, top-k, renormalised" if renormalise else "softmax, top-k"
    return Rule(name=name, top_k=top_k, route=route)
