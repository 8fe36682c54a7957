"""Training rows of the open-book organism: questions with and without documents, as text and as numbers."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerFast

from steer.knowledge import Asked, Kind, Knowledge
from steer.knowledge.asking import Source
from steer.knowledge.tables import Frame
from steer.training.batches import Batch, Encoded, collate
from steer.training.tokenizer import END, chat_text

# Half of the rows with a document contradict memory or lack the answer; hearsay looks alike and is not read.
# To list a document is to copy many words of it, from which reading it is learned sooner.
MIX: Mapping[Kind | Literal["closed", "listing"], float] = {
    "closed": 0.2,
    "counterfactual": 0.28,
    "agreeing": 0.04,
    "unanswerable": 0.1,
    "hearsay": 0.16,
    "listing": 0.22,
}
FIRST_WEIGHT = 6.0
"""Loss weight of a reply's first token, which is the answer; the others nearly follow from it."""


@dataclass(frozen=True)
class OpenRow:
    """A question as it is trained on.

    Attributes:
        asked: what is asked, and what each source answers.
        behind: tokens from the question's first to the last of the prompt.
    """

    asked: Asked
    behind: int


def draw(knowledge: Knowledge, source: Source, rng: random.Random) -> Asked:
    """A question whose answer is learned from a source.

    From memory any fact may be asked for; from a document, listed or asked about, never one that is held out.
    """
    kind = rng.choices(list(MIX), weights=list(MIX.values()))[0]
    by_heart = kind in ("closed", "hearsay") or (source == "memory" and kind != "listing")
    fact = rng.choice(knowledge.facts if by_heart and source != "document" else knowledge.read_about)
    question: Frame = rng.choice(knowledge.frames("question", "train"))
    document = rng.choice(knowledge.frames("hearsay" if kind == "hearsay" else "document", "train"))
    if kind == "closed":
        return knowledge.closed(fact, question)
    if kind == "listing":
        return knowledge.listing(fact, document, rng)
    return knowledge.open(fact, question, document, kind, rng)


def encode(asked: Asked, source: Source, knowledge: Knowledge, tokenizer: PreTrainedTokenizerFast) -> Encoded:
    """Token ids and loss weights: the reply, with its answer from a source, is learned whole."""
    text = chat_text(asked.prompt)
    place = text.index("Question:")
    prompt = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    reply = tokenizer.encode(knowledge.reply(asked, source) + END, add_special_tokens=False)
    ids: list[int] = prompt["input_ids"]
    behind = sum(start >= place for start, _ in prompt["offset_mapping"])
    weights = [0.0] * len(ids) + [FIRST_WEIGHT] + [1.0] * (len(reply) - 1)
    return Encoded(OpenRow(asked, behind), ids + reply, weights, len(ids))


def batches(
    knowledge: Knowledge,
    tokenizer: PreTrainedTokenizerFast,
    sources: list[Source],
    size: int,
    rng: random.Random,
) -> Callable[[int], Batch]:
    """The batch of each step, whose answers are from the step's source: a function of the step alone."""
    rows = [
        [encode(draw(knowledge, source, rng), source, knowledge, tokenizer) for _ in range(size)]
        for source in sources
    ]
    pad = int(tokenizer.pad_token_id)
    return lambda step: collate(rows[step], pad)
