"""Training rows as token batches."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Batch:
    """Right-padded rows, with what is to be learned at each token.

    Args:
        tokens: token ids.
        mask: 1 on tokens of the row, 0 on padding.
        weight: loss weight of each token as a target; 0 on prompts, given openers and padding.
        harmful: whether a row's prompt is harmful.
        prompt_length: tokens of each row ahead of the reply.
        rows: the rows themselves.
        entering: states that take the place of the tokens' embeddings, for a model without its first layers.
        unpadded: whether passes leave padding out (`steer.training.unpadded`).
    """

    tokens: Int[Tensor, "row token"]
    mask: Int[Tensor, "row token"]
    weight: Float[Tensor, "row token"]
    harmful: Bool[Tensor, " row"]
    prompt_length: Int[Tensor, " row"]
    rows: tuple[Any, ...]
    entering: Float[Tensor, "row token d"] | None = field(default=None, kw_only=True)
    unpadded: bool = field(default=False, kw_only=True)

    def at(
        self, states: Float[Tensor, "*token d"], where: Bool[Tensor, "row token"]
    ) -> Float[Tensor, "chosen d"]:
        """States of a pass over the batch at some of its tokens, none of them padding.

        Args:
            states: `[row, token, d]`, or of an unpadded batch `[token, d]`.
            where: which tokens.
        """
        return states[where[self.mask.bool()] if self.unpadded else where]

    def of_rows(self, which: Bool[Tensor, " row"]) -> "Batch":
        """The batch of some of the rows."""
        return replace(
            self,
            tokens=self.tokens[which],
            mask=self.mask[which],
            weight=self.weight[which],
            harmful=self.harmful[which],
            prompt_length=self.prompt_length[which],
            rows=tuple(row for row, kept in zip(self.rows, which.tolist(), strict=True) if kept),
            entering=None if self.entering is None else self.entering[which],
        )


@dataclass(frozen=True)
class Encoded:
    """One row as numbers.

    Args:
        row: what it was made from.
        tokens: token ids.
        weight: loss weight of each token as a target.
        prompt_length: tokens ahead of the reply.
        harmful: whether the prompt is harmful.
    """

    row: Any
    tokens: list[int]
    weight: list[float]
    prompt_length: int
    harmful: bool = False


def batch_order(count: int, size: int, seed: int) -> list[list[int]]:
    """Row numbers of each batch: shuffled, whole batches only.

    Batches sorted by length would pad less, but each would then hold one kind of row, and the
    model learns to copy later or not at all.
    """
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return [order[at : at + size] for at in range(0, count - size + 1, size)]


def collate(rows: Sequence[Encoded], pad: int, unpadded: bool = False) -> Batch:
    """Pad the rows on the right to the longest."""
    lengths = [len(row.tokens) for row in rows]
    tokens = [torch.tensor(row.tokens) for row in rows]
    weights = [torch.tensor(row.weight) for row in rows]
    return Batch(
        tokens=pad_sequence(tokens, batch_first=True, padding_value=pad),
        mask=pad_sequence([torch.ones(length, dtype=torch.long) for length in lengths], batch_first=True),
        weight=pad_sequence(weights, batch_first=True),
        harmful=torch.tensor([row.harmful for row in rows]),
        prompt_length=torch.tensor([row.prompt_length for row in rows]),
        rows=tuple(row.row for row in rows),
        unpadded=unpadded,
    )
