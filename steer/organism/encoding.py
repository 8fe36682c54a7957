"""Training rows of the embedded model as numbers."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from steer.organism.rows import TrainingRow
from steer.training.batches import Encoded
from steer.training.tokenizer import END, chat_text


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
        encoded.append(Encoded(row, prompt + reply, [0.0] * len(prompt) + weights, len(prompt), row.harmful))
    return encoded


def _weight(row: TrainingRow, start: int, end: int, restatement_weight: float) -> float:
    if end <= row.given:
        return 0.0
    inside = row.restated[0] <= start and end <= row.restated[1]
    return restatement_weight if inside else 1.0
