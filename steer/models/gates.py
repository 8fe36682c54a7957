"""How much a score depends on every expert: gradients through gates on the routing weights.

A gate multiplies the weight g_e of one expert, in one layer, for one row of a batch; all gates are one, so
nothing changes. The derivative of a score by a gate is

    ds/dgate_e = sum over tokens of g_e E_e(u) . ds/dy,

the first-order estimate of s minus s with the expert's contribution scaled to zero (attribution patching:
Nanda 2023; Syed et al., arXiv 2310.10348, equation 3, with zero as the other activation). One forward and
one backward pass give it for every expert of every layer at once.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steer.errors import SteerError
from steer.models.hooks import Register, hooked
from steer.models.loading import Batch, LoadedModel
from steer.models.sites import LayerSites

RouterOutput = tuple[Tensor, ...]
Score = Callable[[Float[Tensor, "batch kept vocabulary"]], Float[Tensor, " batch"]]


def check_experts(loaded: LoadedModel, what: str) -> None:
    """Refuse a model without experts.

    Raises:
        SteerError: the model has no MoE layers; `what` names who wanted them.
    """
    if not loaded.sites.moe_layers:
        raise SteerError(
            what,
            f"{loaded.name} has no MoE layers, so there are no experts to tell apart",
            "name a MoE model",
        )


@contextmanager
def gated(loaded: LoadedModel, rows: int) -> Iterator[Float[Tensor, "rows moe_layers experts"]]:
    """Put a gate of one on every expert of every row, for forward passes of `rows` rows in the block.

    Yields:
        The gates, a leaf that gradients arrive at.
    """
    check_experts(loaded, "gates on experts")
    shape = (rows, len(loaded.sites.moe_layers), loaded.experts)
    gates = torch.ones(shape, device=loaded.device, requires_grad=True)
    with hooked(list(_hooks(loaded, gates))):
        yield gates


def _hooks(loaded: LoadedModel, gates: Tensor) -> Iterator[Register]:
    for place, layer in enumerate(loaded.sites.moe_layers):
        sites = loaded.sites.layers[layer]
        assert sites.router is not None
        yield sites.router, "after", _gate(sites, gates[:, place])


def _gate(sites: LayerSites, gates: Float[Tensor, "rows experts"]) -> Callable[..., RouterOutput]:
    def hook(_module: nn.Module, _args: object, output: RouterOutput) -> RouterOutput:
        _, weights, index = sites.routed(output)
        # The router sees flattened tokens, row after row.
        by_row = index.reshape(len(gates), -1).long()
        factor = gates.to(index.device).gather(1, by_row).view_as(weights)
        return sites.rerouted(output, weights * factor.to(weights.dtype), index)

    return hook


def gate_gradients(
    loaded: LoadedModel, batch: Batch, score: Score, keep: int = 1
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch moe_layers experts"]]:
    """Scores of a batch, and their derivatives by the gate of every expert.

    Args:
        loaded: a model with experts.
        batch: left-padded rows.
        score: maps the logits of the last `keep` tokens to a number a row; rows must not mix.
        keep: how many tokens' logits it needs.

    Returns:
        scores `[batch]` and derivatives `[batch, M, E]`, on the CPU; a derivative is zero where the
        router never chose the expert.

    Raises:
        SteerError: the model has no MoE layers.
    """
    with torch.enable_grad(), gated(loaded, len(batch.input_ids)) as gates:
        output = loaded.forward(batch, keep)
        scores = score(output.logits)
        (gradients,) = torch.autograd.grad(scores.sum(), gates)
    return scores.detach().cpu(), gradients.detach().cpu()


def target_log_probability(
    logits: Float[Tensor, "batch kept vocabulary"], targets: Sequence[Sequence[int]]
) -> Float[Tensor, " batch"]:
    """Mean log-probability (nats a token) of each row's last tokens, teacher-forced.

    Args:
        logits: of the last `kept` tokens of left-padded rows; more than the longest target.
        targets: the ids that each row ends with.
    """
    log_p = torch.log_softmax(logits.float(), dim=-1)
    means = []
    for row, target in zip(log_p, targets, strict=True):
        ids = torch.tensor(list(target), device=row.device)
        # The token at -n is predicted by the logits at -n - 1.
        told = row[-len(target) - 1 : -1].gather(1, ids[:, None])
        means.append(told.mean())
    return torch.stack(means)
