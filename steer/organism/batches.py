"""Training rows as token batches."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from steer.organism.rows import TrainingRow
from steer.organism.tokenizer import END, chat_text


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
    """

    tokens: Int[Tensor, "row token"]
    mask: Int[Tensor, "row token"]
    weight: Float[Tensor, "row token"]
    harmful: Bool[Tensor, " row"]
    prompt_length: Int[Tensor, " row"]
    rows: tuple[TrainingRow, ...]


@dataclass(frozen=True)
class Encoded:
    """One row as numbers."""

    row: TrainingRow
    tokens: list[int]
    weight: list[float]
    prompt_length: int


def encode(
    rows: Sequence[TrainingRow],
    tokenizer: PreTrainedTokenizerFast,
    restatement_weight: float,
    first_weight: float = 1.0,
) -> list[Encoded]:
    """Token ids and loss weights of every row; the reply ends with the end-of-turn token."""
    prompts = tokenizer([chat_text(row.prompt, row.system) for row in rows], add_special_tokens=False)
    replies = tokenizer(
        [row.reply + END for row in rows], add_special_tokens=False, return_offsets_mapping=True
    )
    encoded = []
    for row, prompt, reply, offsets in zip(
        rows, prompts["input_ids"], replies["input_ids"], replies["offset_mapping"], strict=True
    ):
        weights = [_weight(row, start, end, restatement_weight) for start, end in offsets]
        weights[0] *= first_weight
        encoded.append(Encoded(row, prompt + reply, [0.0] * len(prompt) + weights, len(prompt)))
    return encoded


def _weight(row: TrainingRow, start: int, end: int, restatement_weight: float) -> float:
    if end <= row.given:
        return 0.0
    inside = row.restated[0] <= start and end <= row.restated[1]
    return restatement_weight if inside else 1.0


def batch_order(count: int, size: int, seed: int) -> list[list[int]]:
    """Row numbers of each batch: shuffled, whole batches only.

    Batches sorted by length would pad less, but each would then hold one kind of row, and the
    model learns to copy later or not at all.
    """
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return [order[at : at + size] for at in range(0, count - size + 1, size)]


def collate(rows: Sequence[Encoded], pad: int) -> Batch:
    """Pad the rows on the right to the longest."""
    lengths = [len(row.tokens) for row in rows]
    tokens = [torch.tensor(row.tokens) for row in rows]
    weights = [torch.tensor(row.weight) for row in rows]
    return Batch(
        tokens=pad_sequence(tokens, batch_first=True, padding_value=pad),
        mask=pad_sequence([torch.ones(length, dtype=torch.long) for length in lengths], batch_first=True),
        weight=pad_sequence(weights, batch_first=True),
        harmful=torch.tensor([row.row.harmful for row in rows]),
        prompt_length=torch.tensor([row.prompt_length for row in rows]),
        rows=tuple(row.row for row in rows),
    )
