"""Rows that detectors run the model on."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from steer.models.batching import by_length

Rows = Sequence[Sequence[int]]
PerExpert = Float[Tensor, "moe_layers experts"]


@dataclass(frozen=True)
class Told:
    """A prompt with a reply: its ids, of which the last `target` are the reply's."""

    tokens: list[int]
    target: int

    @property
    def reply(self) -> list[int]:
        """The reply's ids."""
        return self.tokens[-self.target :]


def batches(rows: Rows, batch_size: int) -> list[list[int]]:
    """Indices of rows of similar length, batch by batch."""
    return by_length([len(row) for row in rows], [f"{index:09d}" for index in range(len(rows))], batch_size)
