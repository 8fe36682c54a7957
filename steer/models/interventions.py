"""Interventions as data, and the pure edits they stand for (design, section 5).

An edit takes a tensor whose last axis is the hidden size and parameters that broadcast against it, so
that one function serves a batch `[B, S, d]` with another intervention in every row as well as a flat
`[T, d]` of an engine that packs requests. Parameters of zero leave the input as it is, to the bit.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Kind = Literal["add", "ablate", "affine"]
Scope = Literal["prompt", "generated", "all"]
KINDS: tuple[Kind, ...] = ("add", "ablate", "affine")
SCOPES: tuple[Scope, ...] = ("prompt", "generated", "all")
# Share of a float32 direction that rounding alone can leave outside the span of others.
DEPENDENT = 1e-6


@dataclass(frozen=True)
class Operation:
    """One edit of an intervention.

    Attributes:
        operation: what is done; a key of `KINDS`.
        tensor: name of its tensor in the arm: the direction r `[d]` of `add`; the orthonormal basis
            `[k, d]` of `ablate`; the stacked pair of direction r and harmless mean μ, `[2, d]`, of `affine`.
        layer: the layer whose input is edited; None where every layer is (`ablate`).
        coefficient: multiple c of the direction; strength of an ablation, 1 for all of it.
        scope: tokens that are edited.
    """

    operation: Kind
    tensor: str
    layer: int | None = None
    coefficient: float = 1.0
    scope: Scope = "all"


@dataclass(frozen=True)
class Arm:
    """A named intervention: operations applied together, and the tensors they use. None is the baseline."""

    name: str
    operations: tuple[Operation, ...] = ()
    tensors: dict[str, Float[Tensor, "..."]] = field(default_factory=dict)


def unit(direction: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape d"]:
    """The direction at length one, in float64 until the end."""
    wide: Tensor = direction.double()
    length: Tensor = wide.norm(dim=-1, keepdim=True)
    return (wide / length).to(direction.dtype)


def orthonormal_basis(directions: Float[Tensor, "k d"]) -> Float[Tensor, "rank d"]:
    """Orthonormal rows that span the same space, the first along the first (modified Gram-Schmidt, float64).

    A direction that depends on those before it adds no row: there are as many rows as the rank.
    """
    rows: list[Tensor] = []
    for direction in directions.double():
        rest = direction
        for row in rows:
            rest = rest - (rest @ row) * row
        if rest.norm() > DEPENDENT * direction.norm():
            rows.append(rest / rest.norm())
    return torch.stack(rows).to(directions.dtype) if rows else directions[:0]


def add(h: Float[Tensor, "... d"], vector: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    """Add a vector: h + c·r, with c·r given (Turner et al., arXiv 2308.10248; Arditi et al., section 2.4)."""
    return h + vector


def ablate(
    h: Float[Tensor, "... d"], basis: Float[Tensor, "*batch k d"], strength: Any = 1.0
) -> Float[Tensor, "... d"]:
    """Remove the span of an orthonormal basis: h − s·Σ_k (h·b_k) b_k (Arditi et al., equation 4)."""
    coordinates: Tensor = h @ basis.mT
    if basis.shape[-2] > 1:
        edited: Tensor = h - coordinates @ (strength * basis)
        return edited
    # Six times as fast as making what is removed, which is as large as h, and subtracting it.
    return torch.addcmul(h, coordinates, strength * basis, value=-1)


def affine(
    h: Float[Tensor, "... d"], direction: Float[Tensor, "... d"], target: Float[Tensor, "..."]
) -> Float[Tensor, "... d"]:
    """Set the component along r̂ to t: h − proj_r(h) + t·r̂ (ACE, arXiv 2411.09003, equation 5).

    Args:
        h: residual stream.
        direction: unit direction r̂; zero rows are left alone.
        target: t = r̂·μ_harmless + c·‖r‖, with a last axis of one.
    """
    return torch.addcmul(h, target - (h * direction).sum(dim=-1, keepdim=True), direction)
