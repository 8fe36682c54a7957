"""Examples as token batches, with what the embedded judge is to learn at each token."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from steer.judges.examples import Example
from steer.judges.rubrics import EMBEDDED
from steer.judges.verdicts import Verdict
from steer.training.batches import Batch, Encoded, collate
from steer.training.losses import Loss, Pass
from steer.training.tokenizer import END, chat_text

VERDICTS: tuple[Verdict, ...] = tuple(offer.verdict for offer in EMBEDDED.offers)
BROKEN = VERDICTS.index("non_response")
UNKNOWN = -100


@dataclass(frozen=True)
class Lesson:
    """One example as numbers.

    Attributes:
        encoded: tokens of question and verdict; the verdict alone has weight as a target.
        standing: for each token of the reply, the index among `VERDICTS` of what the reply can still
            become after it; `UNKNOWN` outside the reply, and where it can become two things.
    """

    encoded: Encoded
    standing: tuple[int, ...]


@dataclass(frozen=True)
class LessonBatch(Batch):
    """A batch of questions with the standing of their replies."""

    standing: Int[Tensor, "row token"]


def encode(examples: Iterable[Example], tokenizer: PreTrainedTokenizerFast) -> list[Lesson]:
    """Every example as a lesson."""
    return [_lesson(example, tokenizer) for example in examples]


def _lesson(example: Example, tokenizer: PreTrainedTokenizerFast) -> Lesson:
    question = chat_text(EMBEDDED.render(example.exchange.prompt, example.exchange.reply))
    read = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)
    said = tokenizer(EMBEDDED.offers[VERDICTS.index(example.verdict)].text + END, add_special_tokens=False)
    ids, verdict = list(read["input_ids"]), list(said["input_ids"])
    weight = [0.0] * len(ids) + [1.0] + [0.0] * (len(verdict) - 1)
    start = question.rindex(example.exchange.reply + END)
    ends = [end - start for _, end in read["offset_mapping"]]
    return Lesson(Encoded(example.exchange, ids + verdict, weight, len(ids)), standing(example, ends))


def standing(example: Example, ends: Sequence[int]) -> tuple[int, ...]:
    """What the reply can still become after its first `end` characters, for each of `ends`.

    A verdict on a whole reply is one bit or two; this says at which token it is decided, so that the
    judge learns in a minute to compare word by word.
    """
    reply = example.exchange.reply
    kept = {
        VERDICTS.index(verdict): max(_shared(reply, text) for text in texts)
        for verdict, texts in example.accepted.items()
    }
    return tuple(_standing(end, kept) if kept and 0 < end <= len(reply) else UNKNOWN for end in ends)


def _shared(one: str, other: str) -> int:
    """Characters with which both texts begin."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _standing(end: int, kept: dict[int, int]) -> int:
    possible = [verdict for verdict, length in kept.items() if end <= length]
    if len(possible) > 1:
        return UNKNOWN
    return possible[0] if possible else BROKEN


def batches(lessons: Sequence[Lesson], size: int, pad: int) -> Callable[[int], Batch]:
    """The batch of each step, in the order drawn: a resumed training sees the same ones."""

    def batch(step: int) -> LessonBatch:
        chosen = lessons[step * size : (step + 1) * size]
        base = collate([lesson.encoded for lesson in chosen], pad)
        width = base.tokens.shape[1]
        rows = [[*lesson.standing, *[UNKNOWN] * (width - len(lesson.standing))] for lesson in chosen]
        return LessonBatch(**vars(base), standing=torch.tensor(rows))

    return batch


def standing_loss(offer_ids: Sequence[int], weight: float) -> Loss:
    """Mean cross-entropy (nats), times `weight`, of the standing among the offers at each reply token."""

    def loss(result: Pass) -> Tensor:
        standing = cast(LessonBatch, result.batch).standing
        known = standing != UNKNOWN
        offers = result.model.get_output_embeddings().weight[list(offer_ids)]
        return weight * torch.nn.functional.cross_entropy(
            result.hidden[-1][known] @ offers.T, standing[known]
        )

    return loss
