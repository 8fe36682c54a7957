"""Edits of single attention heads."""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.models.architectures import head_count
from steer.models.edits.context import Context, Rows
from steer.models.edits.signals import Edit


def masked_heads(
    mixed: Float[Tensor, "batch tokens width"], keep: Float[Tensor, "rows 1 width"]
) -> Float[Tensor, "batch tokens width"]:
    """Scale the heads' outputs before attention's last projection mixes them.

    As Michel et al. (arXiv 1905.10650, section 2.2) mask heads: o_h ← (1 − s)·o_h for the silenced ones.
    """
    return mixed * keep


def make_mask_heads(context: Context, rows: Rows) -> Edit:
    """Edit of `mask_heads` in all rows: (1 − s) of a silenced head is kept."""
    heads = head_count(context.loaded.model)
    keep = {}
    for row, uses in rows.items():
        kept = torch.ones(heads)
        for use in uses:
            kept[list(use.operation.heads)] *= 1 - use.operation.coefficient
        keep[row] = kept
    shares = context.stack(keep, (heads,), fill=1.0)

    def apply(mixed: Tensor) -> Tensor:
        return masked_heads(mixed, shares.repeat_interleave(mixed.shape[-1] // heads, dim=-1)[:, None])

    return apply
