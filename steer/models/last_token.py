"""Of the last layer, only what the next token's logits depend on.

Behind attention's keys and values only the last token reaches them. What is computed of it is added to the
residual stream of every token, which is right where it is read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from steer.models.hooks import Register, first, hooked, with_first
from steer.models.sites import LayerSites

SDPA, LAST_QUERY = "sdpa", "sdpa_last_query"


@contextmanager
def last_token_alone(sites: LayerSites) -> Iterator[None]:
    """Compute attention's output, and all behind it, of a layer for the last token alone.

    Args:
        sites: the last layer.
    """

    def cut(signal: Float[Tensor, "batch tokens d"]) -> Float[Tensor, "batch 1 d"]:
        # Whole in memory, since a slice is multiplied row by row.
        return signal[:, -1:].contiguous()

    hooks: list[Register] = [
        (sites.heads, "before", cut),
        (sites.mlp_norm or sites.mlp, "before", cut),
        (sites.layer, "after", lambda _module, _args, output: with_first(output, cut(first(output)))),
    ]
    with _one_query(sites.attention), hooked(hooks):
        yield


@contextmanager
def _one_query(attention: Any) -> Iterator[None]:
    """Let attention ask for the last token alone where torch's own kernel does it; others stay as is."""
    config = getattr(attention, "config", None)
    if getattr(config, "_attn_implementation", None) != SDPA:
        yield
        return
    # All layers share their configuration.
    own: Any = copy(config)
    own._attn_implementation_internal = LAST_QUERY
    attention.config = own
    try:
        yield
    finally:
        attention.config = config


def _attend_last(
    module: nn.Module,
    query: Float[Tensor, "batch heads tokens head"],
    key: Float[Tensor, "batch key_heads columns head"],
    value: Float[Tensor, "batch key_heads columns width"],
    attention_mask: Tensor | None,
    **settings: Any,
) -> tuple[Float[Tensor, "batch tokens heads width"], None]:
    """The last token's output, in every token's place."""
    mask = None if attention_mask is None else attention_mask[..., -1:, :]
    output, _ = sdpa_attention_forward(module, query[:, :, -1:], key, value, mask, **settings)
    return output.expand(-1, query.shape[2], -1, -1), None


AttentionInterface.register(LAST_QUERY, _attend_last)
