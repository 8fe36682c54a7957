"""Interventions as data, and the pure edits they stand for (design, section 5).

An edit takes a tensor whose last axis is the hidden size and parameters that broadcast against it, so
that one function serves a batch `[B, S, d]` with another intervention in every row as well as a flat
`[T, d]` of an engine that packs requests. Parameters of zero leave the input as it is, to the bit.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Kind = Literal[
    "add",
    "ablate",
    "affine",
    "swap",
    "mask_heads",
    "expert_add",
    "experts_add",
    "expert_ablate",
    "bias_router",
    "reroute",
    "mask_experts",
    "scale_experts",
    "replay_routing",
]
Scope = Literal["prompt", "generated", "all"]
Weighting = Literal["routed", "full", "one"]
Component = Literal["residual", "attention", "mlp"]
Pairing = Literal["order", "topic"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SCOPES: tuple[Scope, ...] = get_args(Scope)
WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)
COMPONENTS: tuple[Component, ...] = get_args(Component)
# Share of a float32 direction that rounding alone can leave outside the span of others.
DEPENDENT = 1e-6
# How far an activated expert's score is above all others (SteerMoE, section 3; Marbut et al., routing).
EPSILON = 0.01


@dataclass(frozen=True)
class Operation:
    """One edit of an intervention: what it does is said by its kind, and which fields count with it.

    Attributes:
        operation: what is done; a key of `KINDS`.
        tensor: name of its tensor in the arm: the direction r `[d]` of `add`; the orthonormal basis
            `[k, d]` of `ablate`; the stacked pair of direction r and harmless mean μ, `[2, d]`, of `affine`;
            a direction for each of `experts`, `[n, d]`, of `expert_add` and `expert_ablate`; one for each
            expert of the layer, `[E, d]`, of `experts_add`; what `swap` puts in place, `[p, d]`, a row for
            each of `positions`, or `[n, p, d]` of n donors until a prompt has its own, or none where that is
            taken from another row of the batch. The other kinds have none.
        layer: the layer that is edited (its input, for kinds on the residual stream). None where every layer
            is: always for `ablate`, and for `replay_routing` of every MoE layer.
        coefficient: multiple c of a direction; strength of `ablate`, `expert_ablate`, `swap` and
            `mask_heads`, 1 for all of it; shift of the logits of `bias_router`, the range measured on real
            prompts plus ε; factor s of `scale_experts`.
        scope: tokens that are edited.
        experts: experts of the layer that `expert_add`, `expert_ablate`, `mask_experts` and `scale_experts`
            act on.
        weighting: what multiplies the direction of an expert in `expert_add` and `experts_add`: its weight
            as the model uses it (`routed`, 0 where it is not chosen), its share of the softmax over all
            experts (`full`), or `one`.
        activate: experts that `reroute` and `bias_router` prefer, the strongest first.
        deactivate: experts that they avoid.
        heads: attention heads that `mask_heads` silences.
        component: what `swap` replaces: the residual entering the layer, or what attention or MLP write. Of
            `ablate`, whose writes are edited, in every layer; `residual` stands for all, the embedding's too.
        positions: prompt tokens that `swap` replaces, counted from the end: −1 is the last.
    """

    operation: Kind
    tensor: str = ""
    layer: int | None = None
    coefficient: float = 1.0
    scope: Scope = "all"
    experts: tuple[int, ...] = ()
    weighting: Weighting = "routed"
    activate: tuple[int, ...] = ()
    deactivate: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    component: Component = "residual"
    positions: tuple[int, ...] = ()


@dataclass(frozen=True)
class Donors:
    """Prompts whose recorded activations a `swap` can put in place.

    Attributes:
        pairing: which of them is a prompt's pair: the one of the same number, over again from the first, or
            the one whose wording is nearest.
        ids: their ids.
        texts: their texts.
    """

    pairing: Pairing
    ids: tuple[str, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Arm:
    """A named intervention: operations applied together, and the tensors they use. None is the baseline.

    Attributes:
        name: what it is called.
        operations: its edits.
        tensors: by the names that the operations use.
        twin: what `replay_routing` replays: the routing of a run of the same tokens under these operations,
            none of them being the unsteered run. They share the tensors.
        donors: of `swap` with recorded activations, until each prompt has its own pair
            (`steer.models.donors`); None elsewhere.
    """

    name: str
    operations: tuple[Operation, ...] = ()
    tensors: dict[str, Float[Tensor, "..."]] = field(default_factory=dict)
    twin: tuple[Operation, ...] = ()
    donors: Donors | None = None


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
