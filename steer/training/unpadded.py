"""Passes over the tokens of rows alone: padding is left out, and each row attends to itself.

Token by token a decoder does the same work for padding as for text. Rows stand one behind another as one
long row instead, with positions of their own; attention alone knows where each ends.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from steer.training.batches import Batch

UNPADDED = "sdpa_unpadded"


def unpadded_hidden(model: PreTrainedModel, batch: Batch) -> tuple[Float[Tensor, "token d"], ...]:
    """The residual stream entering each layer and leaving the last, of the rows' tokens one after another."""
    assert batch.entering is None
    inside = batch.mask.bool()
    places = torch.arange(batch.tokens.shape[1]).expand_as(batch.tokens)
    with _unpadded(model):
        output = model.get_decoder()(
            input_ids=batch.tokens[inside][None],
            position_ids=places[inside][None],
            use_cache=False,
            output_hidden_states=True,
            row_lengths=batch.mask.sum(dim=1).tolist(),
        )
    return tuple(hidden[0] for hidden in output.hidden_states)


@contextmanager
def _unpadded(model: PreTrainedModel) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation(UNPADDED)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attend_in_rows(
    _module: nn.Module,
    query: Float[Tensor, "1 heads token head"],
    key: Float[Tensor, "1 key_heads token head"],
    value: Float[Tensor, "1 key_heads token width"],
    _attention_mask: None,
    *,
    row_lengths: list[int],
    scaling: float | None = None,
    **_settings: Any,
) -> tuple[Float[Tensor, "1 token heads width"], None]:
    """Causal attention of every row by itself: short rows are faster one by one than padded together."""
    queries, keys, values = (states.split(row_lengths, dim=2) for states in (query, key, value))
    grouped = query.shape[1] != key.shape[1]
    outputs = [
        torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, enable_gqa=grouped
        )
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


AttentionInterface.register(UNPADDED, _attend_in_rows)
