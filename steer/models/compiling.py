"""Turn the interventions of all rows of a batch into one edit per site and phase."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from steer.errors import SteerError
from steer.models import interventions as edits
from steer.models.interventions import Arm, Operation
from steer.models.loading import LoadedModel

Phase = Literal["prompt", "generated"]
PHASES: tuple[Phase, ...] = ("prompt", "generated")
Edit = Callable[[Tensor], Tensor]
# The place that is edited and its layer (-1 for the embedding).
Site = tuple[Literal["residual", "attention", "mlp", "embedding"], int]


def sites_of(operation: Operation, layers: int) -> Iterator[Site]:
    """The sites that an operation edits in a model of so many layers."""
    if operation.operation != "ablate":
        yield "residual", int(operation.layer or 0)
        return
    yield "embedding", -1
    for layer in range(layers):
        yield "attention", layer
        yield "mlp", layer


def touches(operation: Operation, phase: Phase) -> bool:
    """Whether an operation's scope takes in the tokens of a phase."""
    return operation.scope in ("all", phase)


def _edits(operation: Operation, site: Site) -> bool:
    if operation.operation == "ablate":
        return site[0] != "residual"
    return site == ("residual", operation.layer)


Rows = dict[int, tuple[Operation, Arm]]


def _steps(arms: Sequence[Arm], site: Site, phase: Phase) -> dict[tuple[int, edits.Kind], Rows]:
    """Which rows are edited at a site in a phase, by place in their arm's order and kind of edit."""
    found: dict[tuple[int, edits.Kind], Rows] = defaultdict(dict)
    for row, arm in enumerate(arms):
        here = [op for op in arm.operations if touches(op, phase) and _edits(op, site)]
        for place, operation in enumerate(here):
            if operation.operation in {earlier.operation for earlier in here[:place]}:
                cause = f"two `{operation.operation}` operations meet at {site[0]} {site[1]}"
                raise SteerError(f"arm `{arm.name}`", cause, "merge them into one tensor")
            found[place, operation.operation][row] = (operation, arm)
    # In order of place, so that a row's operations follow each other as its arm lists them.
    return dict(sorted(found.items()))


class Compiler:
    """Turns the operations of all rows at a site into one edit of the whole batch."""

    def __init__(self, loaded: LoadedModel, arms: Sequence[Arm]) -> None:
        parameter = next(loaded.sites.base.parameters())
        self._like: dict[str, Any] = {"dtype": parameter.dtype, "device": parameter.device}
        self._loaded = loaded
        # Every row the same: parameters broadcast over the batch, and cost as little as for one row.
        self._arms = arms[:1] if all(arm is arms[0] for arm in arms) else list(arms)

    def edit(self, site: Site, phase: Phase) -> Edit | None:
        """The edit of a site in a phase; None where no row has one."""
        steps = [
            getattr(self, f"_{kind}")(rows) for (_, kind), rows in _steps(self._arms, site, phase).items()
        ]
        if not steps:
            return None

        def apply(h: Tensor) -> Tensor:
            for step in steps:
                h = step(h)
            return h

        return apply

    def _stack(self, rows: dict[int, Tensor], width: tuple[int, ...]) -> Tensor:
        stacked = torch.zeros(len(self._arms), *width, dtype=torch.float64)
        for row, tensor in rows.items():
            stacked[row, : len(tensor)] = tensor.double()
        return stacked.to(**self._like)

    def _add(self, rows: Rows) -> Edit:
        scaled = {
            row: (op.coefficient * arm.tensors[op.tensor].double())[None] for row, (op, arm) in rows.items()
        }
        vector = self._stack(scaled, (1, self._loaded.hidden_size))
        return lambda h: edits.add(h, vector)

    def _ablate(self, rows: Rows) -> Edit:
        bases = {row: arm.tensors[op.tensor] for row, (op, arm) in rows.items()}
        rank = max(len(basis) for basis in bases.values())
        basis = self._stack(bases, (rank, self._loaded.hidden_size))
        strengths = {row: torch.full((1, 1), op.coefficient) for row, (op, _) in rows.items()}
        strength = self._stack(strengths, (1, 1))
        if len(self._arms) == 1:
            factor = float(strength)
            return lambda h: edits.ablate(h, basis[0], factor)
        return lambda h: edits.ablate(h, basis, strength)

    def _affine(self, rows: Rows) -> Edit:
        directions, targets = {}, {}
        for row, (op, arm) in rows.items():
            direction, harmless_mean = arm.tensors[op.tensor].double()
            unit = edits.unit(direction)
            directions[row] = unit[None]
            targets[row] = (unit @ harmless_mean + op.coefficient * direction.norm())[None, None]
        direction = self._stack(directions, (1, self._loaded.hidden_size))
        target = self._stack(targets, (1, 1))
        return lambda h: edits.affine(h, direction, target)
