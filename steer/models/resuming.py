"""Run what an edit can't change once, and then only the rest, for as many edits as are tried.

What leaves a layer is recorded for whole sequences, with what multiplies an expert's direction there, and
with the keys and values of every layer. A resumed pass skips the layers up to the edit, which give what
was recorded, edited, and all tokens before the first edited one: attention is causal, so that their keys
and values are those of the unsteered pass.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from steer.errors import SteerError
from steer.models.edits.experts import weights_of
from steer.models.edits.signals import Routing
from steer.models.hooks import Register, first, hooked
from steer.models.interventions import Weighting
from steer.models.last_token import last_token_alone
from steer.models.loading import Batch, LoadedModel


def direction_weights(
    weighting: Weighting,
    logits: Float[Tensor, "tokens experts"],
    weights: Float[Tensor, "tokens chosen"],
    index: Int[Tensor, "tokens chosen"],
) -> Float[Tensor, "tokens experts"]:
    """What multiplies the direction of every expert at every token, out of what its router returned.

    Source: arXiv 2606.04160, method 1; the same weights as those of `expert_add` and `experts_add`.
    """
    # Routers return flattened tokens; an edit sees them by row.
    routing = Routing.unedited(logits[None], weights[None], index.long()[None])
    return weights_of(routing, weighting)[0].float()


@dataclass(frozen=True)
class Recorded:
    """What is known below an edit of one MoE block's output.

    Attributes:
        leaving: the residual stream that leaves the layer.
        weights: what multiplies the direction of every expert, 0 at padding.
    """

    leaving: Float[Tensor, "batch tokens d"]
    weights: Float[Tensor, "batch tokens experts"]


# Of shapes apart, since attention may keep something smaller that it makes them from.
KeysValues = tuple[Float[Tensor, "batch heads tokens head"], Float[Tensor, "batch other tokens width"]]


@dataclass(frozen=True)
class Unsteered:
    """A pass without edits, to resume from.

    Attributes:
        batch: what was run.
        layers: what is known below an edit, by layer.
        logits: of the first reply token.
        keys_values: keys and values of every layer.
    """

    batch: Batch
    layers: dict[int, Recorded]
    logits: Float[Tensor, "batch vocabulary"]
    keys_values: tuple[KeysValues, ...]


@torch.inference_mode()
def record(loaded: LoadedModel, batch: Batch, layers: Sequence[int], weighting: Weighting) -> Unsteered:
    """One pass, and what is needed to resume it above each of some MoE layers.

    Raises:
        SteerError: a layer has no router, or normalises what its MoE block writes, so that an edit of the
            block's output is not what the residual stream gains; or attention keeps more than keys and
            values.
    """
    own: list[Any] = DynamicCache(config=loaded.model.config).layers
    if any(hasattr(one, "update_indexer") for one in own):
        cause = "its attention keeps an index beside keys and values, which can't be cut"
        raise SteerError(loaded.name, cause, "name the `experts` of the arms, so that none is selected")
    routed: dict[int, Tensor] = {}
    leaving: dict[int, Tensor] = {}
    shape, real = (*batch.input_ids.shape, -1), batch.attention_mask[..., None]

    def route(layer: int) -> Callable[..., None]:
        def keep(_module: nn.Module, _args: Any, output: tuple[Tensor, ...]) -> None:
            parts = (part.reshape(-1, part.shape[-1]) for part in loaded.sites.layers[layer].routed(output))
            gates = direction_weights(weighting, *parts).view(shape)
            routed[layer] = loaded.sites.write_scale * gates * real.to(gates.device)

        return keep

    def leave(layer: int) -> Callable[..., None]:
        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            leaving[layer] = first(output)

        return keep

    hooks: list[Register] = []
    for layer in layers:
        sites = loaded.sites.layers[layer]
        if sites.router is None or sites.mlp_write is not sites.mlp:
            raise SteerError(
                f"{loaded.name}, layer {layer}",
                "its MoE block can't be edited from outside (no router, or a norm behind the block)",
                "name MoE layers of a supported family",
            )
        hooks += [(sites.router, "after", route(layer)), (sites.layer, "after", leave(layer))]
    # Without a configuration no layer drops keys outside a sliding window, so that all can be cut alike.
    cache = DynamicCache()
    with hooked(hooks):
        logits = loaded.next_token_logits(batch, cache=cache)
    recorded = {layer: Recorded(leaving[layer], routed[layer]) for layer in layers}
    held: list[Any] = cache.layers
    return Unsteered(batch, recorded, logits, tuple((one.keys, one.values) for one in held))


@contextmanager
def _returning(module: nn.Module, value: Tensor) -> Iterator[None]:
    """A module that returns a value instead of computing it."""
    # The instance's attribute hides the method of its class; accelerate hangs its own there.
    before = vars(module).get("forward")
    module.forward = lambda *_args, **_kwargs: value
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


@torch.inference_mode()
def resume(
    loaded: LoadedModel,
    unsteered: Unsteered,
    rows: Int[Tensor, " jobs"],
    layer: int,
    leaving: Float[Tensor, "jobs tokens d"],
) -> Float[Tensor, "jobs vocabulary"]:
    """Logits of the first reply token, given what leaves a layer; only what is above it is computed.

    Args:
        loaded: the model.
        unsteered: the pass that is resumed.
        rows: row of that pass that each job is about.
        layer: the layer.
        leaving: what leaves it at the last tokens; those before are as in the unsteered pass.
    """
    batch, width = unsteered.batch, leaving.shape[1]
    mask = batch.attention_mask[rows]
    cut = mask.shape[1] - width
    # Columns that are padding in every row are left out; above the last layer no token sees another.
    begin = cut if layer == loaded.layers - 1 else min(int(mask.argmax(dim=1).min()), cut)
    resumed = Batch(batch.input_ids[rows, cut:], mask[:, begin:], batch.position_ids[rows, cut:])
    with ExitStack() as stack:
        stack.enter_context(last_token_alone(loaded.sites.layers[-1]))
        for below in loaded.sites.layers[: layer + 1]:
            stack.enter_context(_returning(below.layer, leaving))
        return loaded.next_token_logits(resumed, cache=_before(unsteered, rows, layer, slice(begin, cut)))


def _before(
    unsteered: Unsteered, rows: Int[Tensor, " jobs"], layer: int, columns: slice
) -> DynamicCache | None:
    """Keys and values of some columns, of the layers above one."""
    if columns.start == columns.stop:
        return None
    cache = DynamicCache()
    for index, both in enumerate(unsteered.keys_values):
        # Layers that don't run need none, but the first is asked how many columns there are.
        which = rows if index > layer else slice(1)
        cache.layers.append(_holding(*(part[which, :, columns] for part in both)))
    return cache


def _holding(keys: Tensor, values: Tensor) -> DynamicLayer:
    """A layer's cache; adding to an empty one would copy."""
    layer = DynamicLayer()
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    return layer
