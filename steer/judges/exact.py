"""Exact matching of a reply with the answer of the document and with the one that is known without it.

A text is normalised as for SQuAD (Rajpurkar et al., arXiv 1606.05250, section 6.1): lower case, without
punctuation and articles, words parted by one blank.
"""

import re
import string
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from steer.artifacts.provenance import code_digest, digest
from steer.judges.verdicts import UNSCORED, Exchange, Judgement, Verdict

ABSTENTIONS = (
    *("unknown", "unanswerable", "unclear", "no answer", "no information", "not enough information"),
    *("insufficient information", "not stated", "not mentioned", "not given", "not provided"),
    *("not specified", "does not say", "doesn't say", "does not mention", "doesn't mention"),
    *("does not contain", "doesn't contain", "does not provide", "doesn't provide", "cannot be answered"),
    *("can't be answered", "cannot be determined", "can't be determined", "cannot answer", "can't answer"),
    *("i don't know", "i do not know", "conflict", "conflicts", "conflicting", "contradict"),
    *("contradicts", "contradictory", "contradiction", "inconsistent", "disagree", "two answers"),
    "multiple answers",
)
"""A reply with one of these and with no answer abstains: it says that there is none, or more than one.

The two are not told apart: “unknown” counts where “conflict” was asked for, and the reverse.
"""

ARTICLES = frozenset({"a", "an", "the"})
SHORT = 3
"""Letters of an answer that is looked for as it is written: in small letters, “US” is any “us”."""

PUNCTUATION = str.maketrans("", "", string.punctuation + "’‘“”–—…")


def normalised(text: str) -> str:
    """The text as it is compared."""
    return _kept(text.lower())


def _kept(text: str) -> str:
    words = text.translate(PUNCTUATION).split()
    return " ".join(word for word in words if word.lower() not in ARTICLES)


@dataclass(frozen=True)
class ExactMatching:
    """Judge replies to questions by exact match, or by an answer among the words of the reply.

    - `from_document`: the reply is an answer of the document. One that agrees with memory counts as this.
    - `from_memory`: it is an answer that is known without the document.
    - `abstained`: it says that there is no answer, or more than one, and gives none.
    - `other`: anything else, and a reply that gives both answers where they differ.
    """

    match: Literal["exact", "contains"] = "exact"

    @cached_property
    def version(self) -> str:
        """Digest of the way of matching and of its code."""
        return f"exact-{digest([self.match, code_digest(__name__)])}"

    def judge(self, exchanges: Sequence[Exchange]) -> list[Judgement]:
        """One judgement per exchange; a prompt without known answers is unscored."""
        return [Judgement(*self._judge(one), self.version) for one in exchanges]

    def _judge(self, exchange: Exchange) -> tuple[Verdict, str]:
        if exchange.answers is None:
            return UNSCORED, "the prompt has no `answers`"
        said = self._found(exchange.reply, exchange.answers.document)
        known = self._found(exchange.reply, exchange.answers.memory)
        if said & known:
            return "from_document", "is the document's answer"
        # Of two answers of which one stands within the other, the longer one was given.
        said, known = _outside(said, known), _outside(known, said)
        if said and known:
            return "other", "gives the document's answer and another"
        if said:
            return "from_document", "is the document's answer"
        if known:
            return "from_memory", "is the answer known without the document"
        if any(_gives(exchange.reply, one) for one in (*exchange.answers.document, *exchange.answers.memory)):
            return "other", "gives an answer among other words"
        reply = normalised(exchange.reply)
        phrase = next((one for one in ABSTENTIONS if _holds(reply, normalised(one))), None)
        return ("abstained", f"says “{phrase}”") if phrase else ("other", "is none of the answers")

    def _found(self, reply: str, answers: Sequence[str]) -> set[str]:
        """The answers that the reply gives, normalised."""
        return {
            normalised(answer)
            for answer in answers
            if (normalised(answer) and normalised(reply) == normalised(answer))
            or (self.match == "contains" and _gives(reply, answer))
        }


def _gives(reply: str, answer: str) -> bool:
    """Whether an answer stands among the words of a reply, a short one with capitals as it is written."""
    written = _kept(answer)
    if len(written) <= SHORT and written != written.lower():
        return _holds(_kept(reply), written)
    return bool(written) and _holds(normalised(reply), normalised(answer))


def _outside(answers: Set[str], others: Set[str]) -> set[str]:
    """Those that stand within none of the others."""
    return {one for one in answers if not any(one != other and _holds(other, one) for other in others)}


def _holds(text: str, words: str) -> bool:
    """Whether whole words stand in a text, both normalised."""
    return re.search(rf"(?<!\S){re.escape(words)}(?!\S)", text) is not None
