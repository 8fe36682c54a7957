"""Exchanges with their true verdicts, for training the embedded judge and for measuring it."""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from steer.grammar import Grammar, Label, Split
from steer.grammar.reading import ReplyReader
from steer.grammar.sets import CONTEXT_SHARE
from steer.judges.damage import Damage
from steer.judges.verdicts import Exchange, Verdict
from steer.training.words import asked_words, wide_words

WORDS_SHARE = 0.35
"""Share of training requests made of random words, so that restating is compared, not recognised."""

QUESTION_SHARE = 0.06
"""Share of prompts that are questions outside the request frames, which get the general wording."""

OTHER_OPENER_SHARE = 0.15

REPLY_MIX: Mapping[str, float] = {
    "compliance": 0.36,
    "refusal": 0.12,
    "other_request": 0.08,
    "damaged_request": 0.22,
    "damaged_compliance": 0.08,
    "damaged_refusal": 0.06,
    "hybrid": 0.06,
    "salad": 0.02,
}
LABELS: tuple[Label, ...] = ("harmful", "harmless")


@dataclass(frozen=True)
class Example:
    """An exchange with its true verdict.

    Attributes:
        exchange: prompt and reply.
        verdict: the truth, by the grammar.
        kind: how the reply was made.
        accepted: every reply to the prompt that would be a refusal or a full response; empty where
            they can't be listed.
    """

    exchange: Exchange
    verdict: Verdict
    kind: str
    accepted: Mapping[Verdict, tuple[str, ...]]


@dataclass(frozen=True)
class _Asked:
    """A prompt, its kind of frame, and the request in it (None in a question)."""

    prompt: str
    kind: str
    request: str | None


class ExampleSource:
    """Draws examples; those of `val` and `test` use phrases and frames that training never sees."""

    def __init__(self, grammar: Grammar, split: Split, rng: random.Random) -> None:
        self._grammar = grammar
        self._split = split
        self._rng = rng
        self._replies = grammar.tables.replies
        self._frames = grammar.frames(split)
        self._phrases = [pair.phrase(label) for pair in grammar.pairs(split) for label in LABELS]
        self._vocabulary = sorted({*asked_words(grammar), *wide_words(grammar)})
        self._reader = ReplyReader(self._replies)
        self._damage = Damage(rng, self._stray)
        self._makers: dict[str, Callable[[_Asked], str]] = {
            "compliance": lambda asked: self._compliance(asked, asked.request),
            "refusal": lambda _: self._refusal(),
            "other_request": lambda asked: self._compliance(asked, self._other(asked)),
            "damaged_request": lambda asked: self._compliance(asked, self._damaged_request(asked)),
            "damaged_compliance": lambda asked: self._damage(self._compliance(asked, asked.request)),
            "damaged_refusal": lambda _: self._damage(self._refusal()),
            "hybrid": self._hybrid,
            "salad": lambda _: self._salad(),
        }

    def draw(self, count: int) -> Iterator[Example]:
        """`count` examples; a reply that damage left blank is drawn again."""
        while count:
            asked = self._asked()
            kind = self._rng.choices(list(REPLY_MIX), list(REPLY_MIX.values()))[0]
            reply = self._makers[kind](asked)
            if reply.strip():
                verdict = self._reader.read(asked.prompt, asked.request, reply).verdict
                yield Example(Exchange(asked.prompt, reply), verdict, kind, self._accepted(asked))
                count -= 1

    def _asked(self) -> _Asked:
        if self._rng.random() < QUESTION_SHARE:
            question = self._rng.choice(self._grammar.tables.questions)
            return _Asked(question.text.replace("{}", self._topic()), question.kind, None)
        frame = self._rng.choice(self._frames)
        request = self._request()
        return _Asked(frame.text.replace("{}", request), frame.kind, request)

    def _topic(self) -> str:
        known = self._rng.random() < 0.5
        return self._rng.choice(self._grammar.tables.topics) if known else self._words(1, 5)

    def _words(self, low: int, high: int) -> str:
        return " ".join(self._rng.choices(self._vocabulary, k=self._rng.randint(low, high)))

    def _request(self) -> str:
        if self._split == "train" and self._rng.random() < WORDS_SHARE:
            return self._words(2, 9)
        phrase = self._rng.choice(self._phrases)
        return f"{phrase} {self._context()}" if self._rng.random() < CONTEXT_SHARE else phrase

    def _context(self) -> str:
        return self._rng.choice(self._grammar.tables.contexts)

    def _accepted(self, asked: _Asked) -> Mapping[Verdict, tuple[str, ...]]:
        if asked.request is None:
            return {}
        answers = tuple(self._grammar.compliance_of(kind, asked.request) for kind in self._replies.openers)
        return {"refusal": self._replies.refusals, "full_response": answers}

    def _compliance(self, asked: _Asked, request: str | None) -> str:
        other = self._rng.random() < OTHER_OPENER_SHARE
        kind = self._rng.choice(list(self._replies.openers)) if other else asked.kind
        return self._grammar.compliance_of(kind, request)

    def _refusal(self) -> str:
        return self._rng.choice(self._replies.refusals)

    def _damaged_request(self, asked: _Asked) -> str:
        return self._damage(asked.request or self._request()) or self._stray()

    def _other(self, asked: _Asked) -> str | None:
        """Another request, a part of this one with a part of another, or no request at all."""
        other = self._request()
        mine = asked.request or other
        ways = (other, self._damage.splice(mine, other), f"{mine} {self._context()}", None)
        return self._rng.choices(ways, (4, 4, 3, 1))[0]

    def _stray(self) -> str:
        return self._rng.choice(self._rng.choice((self._vocabulary, self._request().split())))

    def _hybrid(self, asked: _Asked) -> str:
        """A refusal that turns into steps, steps that turn into a refusal, or two refusals in one."""
        parts = [self._refusal(), self._rng.choice((self._refusal(), self._compliance(asked, asked.request)))]
        self._rng.shuffle(parts)
        whole = self._rng.choice((" ", "\n", "")).join(parts)
        return self._rng.choice((whole, self._damage.splice(*parts), self._damage.splice(*parts)))

    def _salad(self) -> str:
        return " ".join(self._stray() for _ in range(self._rng.randint(1, 20)))
