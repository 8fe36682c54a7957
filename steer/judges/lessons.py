"""Examples as token batches, with what the embedded judge is to learn at each token."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
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


BREAK_WEIGHT = 4.0
"""Weight of the token at which a reply breaks, in the loss of standing; those before it have 1."""

AFTER_WEIGHT = 0.1
"""Weight of the tokens after it: they tell nothing new, and there may be many."""


@dataclass(frozen=True)
class Lesson:
    """One example as numbers.

    Attributes:
        encoded: tokens of question and verdict; the verdict alone has weight as a target.
        standing: for each token of the reply, the index among `VERDICTS` of what the reply can still
            become after it; `UNKNOWN` outside the reply, and where it can become two things.
        pull: weight of each token in the loss of standing.
        restated: whether each token restates the request and still does so rightly.
    """

    encoded: Encoded
    standing: tuple[int, ...]
    pull: tuple[float, ...]
    restated: tuple[bool, ...]


@dataclass(frozen=True)
class LessonBatch(Batch):
    """A batch of questions with the standing of their replies."""

    standing: Int[Tensor, "row token"]
    pull: Float[Tensor, "row token"]
    restated: Bool[Tensor, "row token"]


def encode(examples: Sequence[Example], tokenizer: PreTrainedTokenizerFast) -> list[Lesson]:
    """Every example as a lesson."""
    questions = [chat_text(EMBEDDED.render(e.exchange.prompt, e.exchange.reply)) for e in examples]
    read = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)
    said = tokenizer([offer.text + END for offer in EMBEDDED.offers], add_special_tokens=False)["input_ids"]
    return [
        _lesson(example, ids, _places(question, example.exchange.reply, offsets), said)
        for example, question, ids, offsets in zip(
            examples, questions, read["input_ids"], read["offset_mapping"], strict=True
        )
    ]


def _places(question: str, reply: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """For each token of the question, the characters of the reply up to its end; below 1 ahead of it."""
    start = question.rindex(reply + END)
    return [end - start for _, end in offsets]


def _lesson(example: Example, ids: list[int], ends: list[int], said: list[list[int]]) -> Lesson:
    verdict = said[VERDICTS.index(example.verdict)]
    weight = [0.0] * len(ids) + [1.0] + [0.0] * (len(verdict) - 1)
    stands = standing(example, ends)
    encoded = Encoded(example.exchange, ids + verdict, weight, len(ids))
    return Lesson(encoded, stands, pull(stands), restated(example, ends))


def standing(example: Example, ends: Sequence[int]) -> tuple[int, ...]:
    """What the reply can still become after its first `end` characters, for each of `ends`.

    A verdict on a whole reply is one bit or two; this says at which token it is decided, so that the
    judge learns in a minute to compare word by word.
    """
    kept = {VERDICTS.index(verdict): length for verdict, length in example.viable.items()}
    length = len(example.exchange.reply)
    return tuple(_standing(end, kept) if 0 < end <= length else UNKNOWN for end in ends)


def _standing(end: int, kept: Mapping[int, int]) -> int:
    possible = [verdict for verdict, length in kept.items() if end <= length]
    if len(possible) > 1:
        return UNKNOWN
    return possible[0] if possible else BROKEN


def pull(stands: Sequence[int]) -> tuple[float, ...]:
    """Weight of each token in the loss of standing: the most where the reply breaks."""
    if BROKEN not in stands:
        return (1.0,) * len(stands)
    at = stands.index(BROKEN)
    return (*[1.0] * at, BREAK_WEIGHT, *[AFTER_WEIGHT] * (len(stands) - at - 1))


def restated(example: Example, ends: Sequence[int]) -> tuple[bool, ...]:
    """Which tokens restate the request rightly: behind the opener, up to the colon or the break."""
    reply = example.exchange.reply
    last = min(reply.find(":") + 1, example.viable["full_response"])
    first = example.subject_at
    return tuple(first < end <= last for end in ends)


def batches(lessons: Sequence[Lesson], size: int, pad: int) -> Callable[[int], Batch]:
    """The batch of each step, in the order drawn: a resumed training sees the same ones."""

    def batch(step: int) -> LessonBatch:
        chosen = lessons[step * size : (step + 1) * size]
        base = collate([lesson.encoded for lesson in chosen], pad)
        width = base.tokens.shape[1]

        def table(rows: Iterable[Sequence[Any]], fill: Any) -> Tensor:
            return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])

        return LessonBatch(
            **vars(base),
            standing=table((lesson.standing for lesson in chosen), UNKNOWN),
            pull=table((lesson.pull for lesson in chosen), 0.0),
            restated=table((lesson.restated for lesson in chosen), False),
        )

    return batch


def standing_loss(offer_ids: Sequence[int], weight: float) -> Loss:
    """Weighted mean cross-entropy (nats), times `weight`, of the standing at each reply token."""

    def loss(result: Pass) -> Tensor:
        batch = cast(LessonBatch, result.batch)
        known = batch.standing != UNKNOWN
        offers = result.model.get_output_embeddings().weight[list(offer_ids)]
        each = torch.nn.functional.cross_entropy(
            result.hidden[-1][known] @ offers.T, batch.standing[known], reduction="none"
        )
        return weight * (each * batch.pull[known]).sum() / batch.pull[known].sum()

    return loss


def restatement_loss(weight: float) -> Loss:
    """Mean cross-entropy (nats), times `weight`, of the restated tokens, each given those before it."""

    def loss(result: Pass) -> Tensor:
        learned = cast(LessonBatch, result.batch).restated[:, 1:]
        logits = result.model.get_output_embeddings()(result.hidden[-1][:, :-1][learned])
        return weight * torch.nn.functional.cross_entropy(logits, result.batch.tokens[:, 1:][learned])

    return loss
