"""Training rows of the embedded model as numbers."""

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerFast

from steer.organism.rows import TrainingRow
from steer.organism.settings import OrganismSettings
from steer.training.batches import Batch, Encoded, batch_order, collate
from steer.training.tokenizer import END, chat_text


def encode(
    rows: Sequence[TrainingRow],
    tokenizer: PreTrainedTokenizerFast,
    restatement_weight: float,
    first_weight: float = 1.0,
) -> list[Encoded]:
    """Token ids and loss weights of every row; the reply ends with the end-of-turn token."""
    if not rows:
        return []
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


def batches(
    rows: Sequence[TrainingRow],
    settings: OrganismSettings,
    tokenizer: PreTrainedTokenizerFast,
    first_weight: float = 1.0,
) -> Callable[[int], Batch]:
    """The batch of each step, a function of the step alone: a resumed training sees the same ones.

    Two fifths of a batch are padding: passes leave it out, and take two thirds of the time.
    """
    encoded = encode(rows, tokenizer, settings.restatement_weight, first_weight)
    order = batch_order(len(encoded), settings.batch_size, settings.seed)
    pad = int(tokenizer.pad_token_id)
    return lambda step: collate([encoded[at] for at in order[step % len(order)]], pad, unpadded=True)
