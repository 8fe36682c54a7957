"""Edits of the residual stream and of what is written to it: add, ablate, affine, swap.

The formulas of the first three are those of `steer.models.interventions`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steer.errors import SteerError
from steer.models import interventions as edits
from steer.models.edits.context import Context, Rows
from steer.models.edits.signals import Edit


def make_add(context: Context, rows: Rows) -> Edit:
    """Edit of `add` in all rows."""
    scaled = {row: (use.operation.coefficient * use.tensor)[None] for row, (use,) in rows.items()}
    vector = context.stack(scaled, (1, context.loaded.hidden_size))
    return lambda h: edits.add(h, vector)


def make_ablate(context: Context, rows: Rows) -> Edit:
    """Edit of `ablate` in all rows, at one of the places that write."""
    bases = {row: use.tensor for row, (use,) in rows.items()}
    rank = max(len(basis) for basis in bases.values())
    basis = context.stack(bases, (rank, context.loaded.hidden_size))
    strengths = {row: torch.full((1, 1), use.operation.coefficient) for row, (use,) in rows.items()}
    strength = context.stack(strengths, (1, 1))
    if len(context.arms) == 1:
        factor = float(strength)
        return lambda h: edits.ablate(h, basis[0], factor)
    return lambda h: edits.ablate(h, basis, strength)


def make_affine(context: Context, rows: Rows) -> Edit:
    """Edit of `affine` in all rows."""
    directions, targets = {}, {}
    for row, (use,) in rows.items():
        direction, harmless_mean = use.tensor
        unit = edits.unit(direction)
        directions[row] = unit[None]
        targets[row] = (unit @ harmless_mean + use.operation.coefficient * direction.norm())[None, None]
    direction = context.stack(directions, (1, context.loaded.hidden_size))
    target = context.stack(targets, (1, 1))
    return lambda h: edits.affine(h, direction, target)


def swapped(
    h: Float[Tensor, "batch tokens d"],
    rows: Int[Tensor, " swaps"],
    positions: Int[Tensor, " swaps"],
    values: Float[Tensor, "swaps d"],
    strength: Float[Tensor, "swaps 1"],
) -> Float[Tensor, "batch tokens d"]:
    """Replace h of a row by a donor's at the same distance from the end of the prompt.

    h_p ← h_p + s·(donor_p − h_p), after Activation Surgery (arXiv 2603.14278). Exact at s = 0 and s = 1.

    Args:
        h: what flows past a site at the prompt's tokens, prompts padded on the left.
        rows: row of every swap.
        positions: columns, counted from the end: −1 is the last token.
        values: what the donor has there.
        strength: s.
    """
    edited = h.clone()
    edited[rows, positions] = torch.lerp(h[rows, positions], values, strength)
    return edited


def make_swap(context: Context, rows: Rows) -> Edit:
    """Edit of `swap` in all rows: first from rows of the batch, then from what was recorded."""
    steps = []
    if live := _of(rows, recorded=False):
        steps.append(_swap_rows(context, live))
    if told := _of(rows, recorded=True):
        steps.append(_swap_recorded(context, told))

    def apply(h: Tensor) -> Tensor:
        for step in steps:
            h = step(h)
        return h

    return apply


def _of(rows: Rows, *, recorded: bool) -> Rows:
    found = {
        row: [use for use in uses if bool(use.operation.tensor) == recorded] for row, uses in rows.items()
    }
    return {row: uses for row, uses in found.items() if any(use.operation.positions for use in uses)}


def _swap_rows(context: Context, rows: Rows) -> Edit:
    found: list[tuple[int, int, int]] = []
    strengths: list[float] = []
    for row, uses in rows.items():
        if row not in context.donors:
            cause = "swaps with a paired prompt, and the row has none"
            raise SteerError(f"arm `{uses[0].arm.name}`", cause, "give `donors`, a prompt for each row")
        for use in uses:
            found += [(row, context.donors[row], position) for position in use.operation.positions]
            strengths += [use.operation.coefficient] * len(use.operation.positions)
    at, donors, positions = torch.tensor(found, device=context.like["device"]).T
    strength = torch.tensor(strengths, **context.like)[:, None]
    return lambda h: swapped(h, at, positions, h[donors, positions], strength)


def _swap_recorded(context: Context, rows: Rows) -> Edit:
    """What was recorded of a component is what it adds; a site may write it before it is scaled."""
    found: list[tuple[int, int]] = []
    values: list[Tensor] = []
    strengths: list[float] = []
    for row, uses in rows.items():
        for use in uses:
            whole = use.operation.component == "residual"
            values.append(use.tensor / (1 if whole else context.loaded.sites.write_scale))
            found += [(row, position) for position in use.operation.positions]
            strengths += [use.operation.coefficient] * len(use.operation.positions)
    at, positions = torch.tensor(found, device=context.like["device"]).T
    value, strength = torch.cat(values).to(**context.like), torch.tensor(strengths, **context.like)[:, None]
    if len(context.arms) > 1:
        return lambda h: swapped(h, at, positions, value, strength)

    def every_row(h: Tensor) -> Tensor:
        here = torch.arange(len(h), device=h.device).repeat_interleave(len(value))
        again = len(h)
        return swapped(h, here, positions.repeat(again), value.repeat(again, 1), strength.repeat(again, 1))

    return every_row
