"""Edits of what a router decides: formulas, and the edits of weights and of whole decisions.

In a layer they follow each other in one order, whatever the order in the arm: `bias_router`, `reroute` and
`mask_experts` edit the scores, the model's own rule chooses by them, `scale_experts` edits the weights, and
`replay_routing` puts another row's decision in place of it all. Scores are float32 whatever the model's
type, since ε is lost in half precision. Rows without an edit keep what their router gave, to the bit.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from steer.errors import SteerError
from steer.models.edits.context import Context, Rows
from steer.models.edits.signals import Edit, Routing
from steer.models.interventions import EPSILON

Scores = Float[Tensor, "batch tokens experts"]
Flags = Bool[Tensor, "rows 1 experts"]


def biased(z: Scores, shift: Float[Tensor, "rows 1 experts"]) -> Scores:
    """z_e ± b, with b the range of z on real prompts plus ε (Marbut et al., arXiv 2606.04160, routing)."""
    return z + shift


def rerouted(z: Scores, activate: Flags, deactivate: Flags, *, softmax: bool = True) -> Scores:
    """S = log-softmax(z); activated experts get s_max + ε, deactivated ones s_min − ε, ε = 0.01.

    Maximum and minimum are those of the token before the edit (SteerMoE, arXiv 2509.09660, section 3).
    Phi's sparsemixer weighs by the logits' size, which log-softmax changes: there the weights move at every
    token of the row, as in the source. A sigmoid of log-softmax would be another router altogether: without
    `softmax`, s = z.
    """
    s = torch.log_softmax(z, dim=-1) if softmax else z
    edited = torch.where(activate, s.amax(dim=-1, keepdim=True) + EPSILON, s)
    return torch.where(deactivate, s.amin(dim=-1, keepdim=True) - EPSILON, edited)


def scaled(
    weights: Float[Tensor, "batch tokens chosen"],
    index: Int[Tensor, "batch tokens chosen"],
    factors: Float[Tensor, "rows 1 experts"],
) -> Float[Tensor, "batch tokens chosen"]:
    """g_e ← s·g_e, without making up for it in the other weights (MoTE, arXiv 2502.11096)."""
    return weights * of_chosen(factors, index)


def replayed(routing: Routing, source: Int[Tensor, " batch"]) -> Routing:
    """Every row takes the choices and weights of its source row, at the same tokens."""
    weights, index = routing.weights[source], routing.index[source]
    return replace(routing, weights=weights, index=index)


def of_chosen(
    values: Shaped[Tensor, "rows 1 experts"], index: Int[Tensor, "batch tokens chosen"]
) -> Shaped[Tensor, "batch tokens chosen"]:
    """A value of each expert, picked for the chosen ones."""
    return values.expand(*index.shape[:2], -1).gather(-1, index)


def make_scale(context: Context, rows: Rows) -> Edit:
    """Edit of `scale_experts` in all rows; factors of an expert that is named twice multiply."""
    factors = {}
    for row, uses in rows.items():
        factor = torch.ones(1, context.loaded.experts, dtype=torch.float64)
        for use in uses:
            factor[0, list(use.operation.experts)] *= use.operation.coefficient
        factors[row] = factor
    stacked = context.stack(factors, (1, context.loaded.experts), fill=1.0)
    return lambda routing: replace(routing, weights=scaled(routing.weights, routing.index, stacked))


def make_replay(context: Context, rows: Rows) -> Edit:
    """Edit of `replay_routing` in all rows that have a twin."""
    source = list(range(len(context.arms)))
    for row, uses in rows.items():
        if row not in context.twins:
            cause = "replays the routing of a twin, and the row has none in the batch"
            raise SteerError(
                f"arm `{uses[0].arm.name}`", cause, "add twins with `companions.with_companions`"
            )
        source[row] = context.twins[row]
    index = torch.tensor(source, device=context.like["device"])
    return lambda routing: replayed(routing, index)
