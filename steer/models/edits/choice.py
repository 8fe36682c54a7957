"""Edits of the scores that a router chooses by: `bias_router`, `reroute`, `mask_experts`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from steer.errors import SteerError
from steer.models.edits.context import Context, Rows, Use
from steer.models.edits.router import biased, of_chosen, rerouted
from steer.models.edits.signals import Edit, Routing
from steer.models.interventions import Operation


@dataclass(frozen=True)
class Wish:
    """What the operations of one row ask of a router, together.

    Attributes:
        shift: of every logit.
        up: experts activated by `reroute`, the first k listed. No more can be chosen, and all have the same
            score, so that the list has to say which are the strongest. (`bias_router` leaves that to the
            router: of too many, those with the largest logits are chosen.)
        down: experts deactivated by `reroute`.
        hidden: masked experts.
        avoided: experts that must not be chosen: deactivated by either, or masked.
        wanted: experts that must be chosen: activated by either.
    """

    shift: Float[Tensor, "1 experts"]
    up: tuple[int, ...]
    down: tuple[int, ...]
    hidden: tuple[int, ...]
    avoided: tuple[int, ...]
    wanted: tuple[int, ...]

    @property
    def changes(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.up or self.avoided or self.shift.any())


def wish(operations: Sequence[Operation], experts: int, top_k: int) -> Wish:
    """Put the operations of one row at one router together; those of other kinds are left out."""
    shift = torch.zeros(1, experts, dtype=torch.float64)
    up: list[int] = []
    down: list[int] = []
    hidden: list[int] = []
    avoided: list[int] = []
    wanted: list[int] = []
    for one in operations:
        if one.operation == "bias_router" and one.coefficient:
            shift[0, list(one.activate)] += one.coefficient
            shift[0, list(one.deactivate)] -= one.coefficient
            avoided, wanted = avoided + list(one.deactivate), wanted + list(one.activate)
        elif one.operation == "reroute":
            up, down = up + list(one.activate), down + list(one.deactivate)
        elif one.operation == "mask_experts":
            hidden += one.experts
    first = tuple(dict.fromkeys(up))[:top_k]
    down_and_hidden = (tuple(down), tuple(hidden))
    return Wish(shift, first, *down_and_hidden, tuple({*avoided, *down, *hidden}), tuple({*wanted, *first}))


def excess(operations: Sequence[Operation], top_k: int) -> int:
    """How many experts of one layer are activated beyond the k that a token can have."""
    activated = {expert for one in operations for expert in one.activate}
    return max(0, len(activated) - top_k)


def check_wish(arm: str, layer: int, operations: Sequence[Operation], experts: int, top_k: int) -> None:
    """Check that the operations of one row at one router can all be followed.

    Raises:
        SteerError: too few experts are left to choose from, or one is both preferred and avoided.
    """
    where = f"arm `{arm}`, layer {layer}"
    avoided = set(wish(operations, experts, top_k).avoided)
    if both := sorted(avoided & {expert for one in operations for expert in one.activate}):
        raise SteerError(where, f"experts {both} are both activated and avoided", "leave each in one list")
    if experts - len(avoided) < top_k:
        cause = f"{len(avoided)} of {experts} experts are avoided, and every token needs {top_k}"
        raise SteerError(where, cause, "avoid fewer experts in this layer")


def make_choice(context: Context, rows: Rows) -> Edit:
    """Edit of the three kinds in all rows."""
    experts, top_k = context.loaded.experts, context.loaded.top_k
    wishes = {row: _wish(uses, experts, top_k) for row, uses in rows.items()}
    edited = context.flags({row: [0] for row, one in wishes.items() if one.changes}, 1)
    # All operations that meet at a router name its layer.
    layer = next(iter(rows.values()))[0].operation.layer
    assert layer is not None
    rule, everywhere = context.loaded.sites.layers[layer].rule, bool(edited.all())
    if rule is None or not edited.any():
        return lambda routing: routing
    steps = _score_steps(context, wishes, softmax=rule.scores == "log-softmax")
    avoid = context.flags({row: one.avoided for row, one in wishes.items()}, experts)
    want = context.flags({row: one.wanted for row, one in wishes.items()}, experts)
    most = want.sum(dim=-1).clamp(max=top_k)
    # An expert that can't be chosen (SAFEx, arXiv 2506.17368).
    masked = context.flags({row: one.hidden for row, one in wishes.items()}, experts)
    hidden = masked if masked.any() else None

    def apply(routing: Routing) -> Routing:
        scores = routing.logits.float()
        for step in steps:
            scores = step(scores)
        weights, index = rule.route(scores, hidden)
        weights = weights.to(routing.weights.dtype)
        if not everywhere:
            weights = torch.where(edited, weights, routing.weights)
            index = torch.where(edited, index, routing.index)
        leaked, got = (of_chosen(flags, index).sum(dim=-1) for flags in (avoid, want))
        return replace(routing, weights=weights, index=index, leaked=leaked, blocked=most - got)

    return apply


def _wish(uses: Sequence[Use], experts: int, top_k: int) -> Wish:
    operations = [use.operation for use in uses]
    check_wish(uses[0].arm.name, int(operations[0].layer or 0), operations, experts, top_k)
    return wish(operations, experts, top_k)


def _score_steps(
    context: Context, wishes: dict[int, Wish], *, softmax: bool
) -> list[Callable[[Tensor], Tensor]]:
    """What is done to the scores, by kind; a kind that no row has costs nothing."""
    experts, steps = context.loaded.experts, list[Callable[[Tensor], Tensor]]()
    shift = context.stack({row: one.shift for row, one in wishes.items()}, (1, experts), dtype=torch.float32)
    up = context.flags({row: one.up for row, one in wishes.items()}, experts)
    down = context.flags({row: one.down for row, one in wishes.items()}, experts)
    acting = (up | down).any(dim=-1, keepdim=True)
    if shift.any():
        steps.append(lambda z: biased(z, shift))
    if acting.all():
        steps.append(lambda z: rerouted(z, up, down, softmax=softmax))
    elif acting.any():
        steps.append(lambda z: torch.where(acting, rerouted(z, up, down, softmax=softmax), z))
    return steps
