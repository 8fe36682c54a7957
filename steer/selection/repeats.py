"""Controls of several seeds that turn out to be one and the same: they say less than their number tells."""

import logging
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from steer.artifacts.arms import arm_digest
from steer.models.interventions import Arm, Operation

log = logging.getLogger(__name__)


def done_by(arm: Arm) -> str:
    """Identity of what an arm does, in whatever order its experts are named."""
    tensors = dict(arm.tensors)
    operations = tuple(_in_order(one, tensors) for one in arm.operations)
    return arm_digest(replace(arm, operations=operations, tensors=tensors))


def _in_order(operation: Operation, tensors: dict[str, Tensor]) -> Operation:
    """The operation with its experts rising, and the rows of their directions with them."""
    order = sorted(range(len(operation.experts)), key=operation.experts.__getitem__)
    if operation.experts and operation.tensor:
        tensors[operation.tensor] = tensors[operation.tensor][order].contiguous()
    return replace(
        operation,
        experts=tuple(operation.experts[at] for at in order),
        activate=tuple(sorted(operation.activate)),
        deactivate=tuple(sorted(operation.deactivate)),
    )


def warn_of_repeats(drawn: Mapping[str, tuple[str, str]]) -> None:
    """Log every control that does what another one of its pool does already.

    Args:
        drawn: pool and identity of what it does, by arm.
    """
    first: dict[tuple[str, str], str] = {}
    for name, done in drawn.items():
        if (other := first.setdefault(done, name)) != name:
            log.warning(
                "%s: does the same as %s, so that they are one control and not two; lower `seeds`",
                *(name, other),
            )
