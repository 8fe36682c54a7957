"""What flows past the sites that are edited, folded to rows and tokens of the batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Phase = Literal["prompt", "generated"]
PHASES: tuple[Phase, ...] = ("prompt", "generated")
Place = Literal["embedding", "residual", "heads", "attention", "router", "experts", "mlp"]
Site = tuple[Place, int]
"""The place that is edited and its layer (−1 for the embedding)."""
Edit = Callable[[Any], Any]
"""Takes the signal of a place, all rows of the batch, and gives another of its kind."""


def falling(
    weights: Float[Tensor, "*tokens chosen"], index: Int[Tensor, "*tokens chosen"]
) -> tuple[Float[Tensor, "*tokens chosen"], Int[Tensor, "*tokens chosen"]]:
    """Chosen experts, the largest weight first: some rules choose by other numbers, or in no order."""
    order = weights.argsort(dim=-1, descending=True, stable=True)
    return weights.gather(-1, order), index.gather(-1, order)


@dataclass(frozen=True)
class Routing:
    """What a router decides.

    Attributes:
        logits: z as the router gave them; no edit changes them.
        weights: of the chosen experts, as the model uses them.
        index: the chosen experts.
        leaked: how many of them should not have been chosen, by the edits in force.
        blocked: how many experts that should have been chosen, by the edits in force, were not.
    """

    logits: Float[Tensor, "batch tokens experts"]
    weights: Float[Tensor, "batch tokens chosen"]
    index: Int[Tensor, "batch tokens chosen"]
    leaked: Int[Tensor, "batch tokens"]
    blocked: Int[Tensor, "batch tokens"]

    @classmethod
    def unedited(
        cls,
        logits: Float[Tensor, "batch tokens experts"],
        weights: Float[Tensor, "batch tokens chosen"],
        index: Int[Tensor, "batch tokens chosen"],
    ) -> "Routing":
        """What a router returned, with nothing amiss."""
        none = torch.zeros((), dtype=torch.long, device=index.device).expand(index.shape[:2])
        return cls(logits, weights, index, none, none)

    def by_weight(self) -> "Routing":
        """The same choice, the largest weight first."""
        weights, index = falling(self.weights, self.index)
        return replace(self, weights=weights, index=index)

    def gates(self) -> Float[Tensor, "batch tokens experts"]:
        """g_e of every expert: its weight, 0 where it is not chosen."""
        return torch.zeros_like(self.logits, dtype=self.weights.dtype).scatter(-1, self.index, self.weights)


@dataclass(frozen=True)
class Mixture:
    """What the experts of a layer made.

    Attributes:
        output: y, the weighted sum of the chosen experts' outputs.
        tokens: u, what router and experts see.
        routing: choices and weights, after any edit.
        experts: the module.
    """

    output: Float[Tensor, "batch tokens d"]
    tokens: Float[Tensor, "batch tokens d"]
    routing: Routing
    experts: nn.Module


Norms = Float[Tensor, "batch tokens"]
Signal = TypeVar("Signal", Tensor, Routing, Mixture)


def columns(signal: Any, cut: slice) -> Any:
    """The tokens in some columns of the batch."""
    return _each([signal], lambda tensors: tensors[0][:, cut])


def joined(parts: Sequence[Any]) -> Any:
    """Parts of the columns put together again."""
    return _each(parts, lambda tensors: torch.cat(tensors, dim=1))


def _each(parts: Sequence[Any], function: Callable[[list[Tensor]], Tensor]) -> Any:
    if isinstance(parts[0], Tensor):
        return function(list(parts))
    named = {one.name: [getattr(part, one.name) for part in parts] for one in fields(parts[0])}
    kept = {name: values for name, values in named.items() if isinstance(values[0], Tensor | Routing)}
    return replace(parts[0], **{name: _each(values, function) for name, values in kept.items()})


def change(before: Signal, after: Signal) -> tuple[Norms, Norms]:
    """Norm of an edit at every token, and of what was edited: a tensor, a sum of experts, or the gates g."""
    old, new = _measured(before), _measured(after)
    return norm(new - old), norm(old)


def _measured(signal: Tensor | Routing | Mixture) -> Tensor:
    if isinstance(signal, Routing):
        return signal.gates()
    return signal.output if isinstance(signal, Mixture) else signal


def norm(h: Float[Tensor, "batch tokens d"]) -> Norms:
    """Length at every token, in float32, since sums of norms leave the range of half precision."""
    found: Tensor = torch.linalg.vector_norm(h, dim=-1, dtype=torch.float32)
    return found
