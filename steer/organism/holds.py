"""What holds during a training step: experts forced, avoided or silenced, heads silenced. Gradients flow."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from steer.artifacts.facts import Part
from steer.models.architectures import expert_output, head_count
from steer.models.hooks import Register, hooked
from steer.models.interventions import EPSILON
from steer.models.sites import LayerSites, Sites, resolve
from steer.training.batches import Batch


@dataclass(frozen=True)
class Hold:
    """Parts that are not left to themselves, each (layer, expert) or (layer, head).

    Args:
        activated: experts that every token is routed to.
        deactivated: experts that no token is routed to; others take their place.
        silenced: experts that may be chosen but write nothing.
        heads: attention heads that write nothing.
    """

    activated: tuple[Part, ...] = ()
    deactivated: tuple[Part, ...] = ()
    silenced: tuple[Part, ...] = ()
    heads: tuple[Part, ...] = ()


@dataclass
class Watched:
    """What the last forward pass did.

    Args:
        logits: the routers' own logits by layer, before any edit, to be read by `Batch.at`.
        part: an expert to watch.
        written: what that expert makes of every token, without its routing weight.
    """

    logits: dict[int, Float[Tensor, "*token expert"]] = field(default_factory=dict)
    part: Part | None = None
    written: Float[Tensor, "token d"] | None = None


@contextmanager
def held(
    model: PreTrainedModel, batch: Batch, hold: Hold, watched: Watched, alone: Part | None = None
) -> Iterator[None]:
    """Hold parts during a step on `batch`, and watch the routers; of the experts, let `alone` learn alone."""
    sites = resolve(model)
    shape = (-1,) if batch.unpadded else batch.tokens.shape
    hooks: list[Register] = []
    for layer in sites.moe_layers:
        at = sites.layers[layer]
        assert at.router is not None
        hooks.append((at.router, "after", _router_hook(layer, at, hold, watched, shape)))
    for layer in sorted({layer for layer, _ in hold.heads}):
        heads = [head for at, head in hold.heads if at == layer]
        hooks.append((sites.layers[layer].heads, "before", _without_heads(heads, head_count(model))))
    if watched.part:
        experts = sites.layers[watched.part[0]].experts
        assert experts is not None
        hooks.append((experts, "call", _writing(watched)))
    watched.logits.clear()
    with hooked(hooks), _learning_alone(sites, alone):
        yield


def _writing(watched: Watched) -> Callable[[nn.Module, Any, Any], None]:
    asking = False

    def hook(module: nn.Module, args: Any, _kwargs: Any) -> None:
        nonlocal asking
        if asking:  # the call below
            return
        assert watched.part is not None
        asking = True
        watched.written = expert_output(module, args[0], watched.part[1])
        asking = False

    return hook


@contextmanager
def _learning_alone(sites: Sites, part: Part | None) -> Iterator[None]:
    """Let one expert learn, of the stacked weights of its layer's experts."""
    with ExitStack() as stack:
        if part:
            experts = sites.layers[part[0]].experts
            assert experts is not None
            for weight in experts.parameters():
                stack.callback(weight.register_hook(partial(_of_expert, part[1])).remove)
        yield


def _of_expert(expert: int, gradient: Float[Tensor, "expert ..."]) -> Float[Tensor, "expert ..."]:
    """The gradient of one expert's weights, and none of the others'."""
    kept = torch.zeros_like(gradient)
    kept[expert] = gradient[expert]
    return kept


def _without_heads(heads: list[int], count: int) -> Callable[[Tensor], Tensor]:
    """Zero the slices of heads in what attention's last projection reads."""

    def hook(outputs: Float[Tensor, "row token heads_size"]) -> Tensor:
        kept = torch.ones(count, dtype=outputs.dtype)
        kept[heads] = 0.0
        return outputs * kept.repeat_interleave(outputs.shape[-1] // count)

    return hook


def _router_hook(
    layer: int, sites: LayerSites, hold: Hold, watched: Watched, shape: tuple[int, ...]
) -> Callable[[nn.Module, Any, Any], Any]:
    activated, deactivated, silenced = (
        [expert for at, expert in parts if at == layer]
        for parts in (hold.activated, hold.deactivated, hold.silenced)
    )

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        logits, weights, index = sites.routed(output)
        watched.logits[layer] = logits.view(*shape, logits.shape[-1])
        if activated or deactivated:
            assert sites.rule is not None
            weights, index = sites.rule.route(rerouted(logits, activated, deactivated))
        for expert in silenced:
            weights = weights * (index != expert)
        return sites.rerouted(output, weights, index)

    return hook


def rerouted(
    logits: Float[Tensor, "token expert"], activated: list[int], deactivated: list[int]
) -> Float[Tensor, "token expert"]:
    """Scores with experts pushed above the largest or below the smallest (arXiv 2509.09660, section 3.2)."""
    scores = logits.float().log_softmax(dim=-1)
    edited = scores.clone()
    edited[:, activated] = scores.max(dim=-1, keepdim=True).values + EPSILON
    edited[:, deactivated] = scores.min(dim=-1, keepdim=True).values - EPSILON
    return edited
