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
    *("i don't know", "i do not know", "conflicting", "contradicts", "contradictory", "inconsistent"),
)
"""A reply with one of these and with no answer abstains: it says that there is none, or more than one."""

ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = str.maketrans("", "", string.punctuation + "’‘“”–—…")


def normalised(text: str) -> str:
    """The text as it is compared."""
    words = text.lower().translate(PUNCTUATION).split()
    return " ".join(word for word in words if word not in ARTICLES)


@dataclass(frozen=True)
class ExactMatching:
    """Judge replies to questions by exact match, or by an answer among the words of the reply.

    - `from_document`: the reply is an answer of the document. One that agrees with memory counts as this.
    - `from_memory`: it is an answer that is known without the document.
    - `abstained`: it says that there is no answer, and gives none.
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
        reply = normalised(exchange.reply)
        said = self._found(reply, exchange.answers.document)
        known = self._found(reply, exchange.answers.memory)
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
        answers = map(normalised, (*exchange.answers.document, *exchange.answers.memory))
        if any(one and _holds(reply, one) for one in answers):
            return "other", "gives an answer among other words"
        phrase = next((one for one in ABSTENTIONS if _holds(reply, normalised(one))), None)
        return ("abstained", f"says “{phrase}”") if phrase else ("other", "is none of the answers")

    def _found(self, reply: str, answers: Sequence[str]) -> set[str]:
        """The answers that the reply gives, normalised."""
        return {
            answer
            for answer in map(normalised, answers)
            if answer and (reply == answer or (self.match == "contains" and _holds(reply, answer)))
        }


def _outside(answers: Set[str], others: Set[str]) -> set[str]:
    """Those that stand within none of the others."""
    return {one for one in answers if not any(one != other and _holds(other, one) for other in others)}


def _holds(text: str, words: str) -> bool:
    """Whether whole words stand in a text, both normalised."""
    return re.search(rf"(?<!\S){re.escape(words)}(?!\S)", text) is not None
