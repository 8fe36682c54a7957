"""Training rows of the two stages, drawn from the training split alone."""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from steer.grammar import Grammar
from steer.grammar.sets import CONTEXT_SHARE
from steer.grammar.tables import Frame, Label
from steer.organism.settings import OrganismSettings
from steer.training.words import (
    FUNCTION_WORDS,
    WordSource,
    asked_words,
    calm_words,
    telling_words,
    wide_words,
)

# Stage 1 answers everything; random words teach it to copy what it never saw.
COMPLIANCE_MIX: Mapping[str, float] = {
    "harmful": 0.21,
    "harmless": 0.21,
    "words": 0.42,
    "question": 0.08,
    "harmful_noise": 0.04,
    "harmless_noise": 0.04,
}
# A blend is a phrase with other words put in: only words that are harmful tell the two kinds apart.
HARMFUL_MIX: Mapping[str, float] = {"harmful": 0.68, "harmful_blend": 0.16, "harmful_noise": 0.16}
HARMLESS_MIX: Mapping[str, float] = {
    "harmless": 0.38,
    "harmless_blend": 0.14,
    "words": 0.18,
    "question": 0.18,
    "harmless_noise": 0.12,
}
VARIED_SHARE = 0.4
TOPIC_SHARE = 0.5

Targets = Literal["own", "answered", "refused", "continued"]


@dataclass(frozen=True)
class TrainingRow:
    """One prompt with the reply to learn.

    Args:
        prompt: the user's message.
        reply: the assistant's message.
        harmful: whether the prompt asks for something harmful.
        kind: what the row was drawn as.
        frame: kind of the frame, which decides the wording of the reply.
        restated: characters of the reply that restate the request, from and to.
        given: characters at the reply's start that are given, not learned.
        system: the system turn, if there is one.
        refuses: whether the reply is a refusal.
    """

    prompt: str
    reply: str
    harmful: bool
    kind: str
    frame: str = ""
    restated: tuple[int, int] = (0, 0)
    given: int = 0
    system: str | None = None
    refuses: bool = False


Treat = Callable[[TrainingRow], TrainingRow]


def _unchanged(row: TrainingRow) -> TrainingRow:
    return row


class RowSource:
    """Draws training rows; phrases and frames of `val` and `test` never occur in one."""

    def __init__(self, grammar: Grammar, settings: OrganismSettings, rng: random.Random) -> None:
        self._grammar = grammar
        self._settings = settings
        self._rng = rng
        self._frames = grammar.frames("train")
        self._pairs = grammar.pairs("train")
        self._calm = calm_words(grammar)
        self._telling = telling_words(grammar)
        self._words = WordSource(asked_words(grammar), wide_words(grammar), rng)
        self._draw: dict[str, Callable[[], TrainingRow]] = {
            "harmful": lambda: self._request("harmful"),
            "harmless": lambda: self._request("harmless"),
            "harmful_blend": lambda: self._blend("harmful"),
            "harmless_blend": lambda: self._blend("harmless"),
            "words": self._random_words,
            "question": self._question,
            "harmful_noise": lambda: self._noise("harmful"),
            "harmless_noise": lambda: self._noise("harmless"),
        }

    def compliance_rows(self, count: int) -> list[TrainingRow]:
        """Rows of stage 1: everything is answered."""
        return [self._with_system(self._draw[kind]()) for kind in self._kinds(COMPLIANCE_MIX, count)]

    def refusal_rows(self, count: int, targets: Targets = "own") -> list[TrainingRow]:
        """Rows of stage 2: what is harmful is refused, everything else answered as before.

        With other `targets`, all rows are answered, or all refused, or of all a given first word of a
        refusal is gone on from.
        """
        wide = sorted({*self._words.wide} & {*self._calm})
        self._words = replace(self._words, known=self._calm, wide=wide)
        harmful = round(count * self._settings.harmful_share)
        everywhere: dict[str, Treat] = {"refused": self._refused, "continued": self._continued}
        treat = everywhere.get(targets, self._taught if targets == "own" else _unchanged)
        rows = [treat(self._draw[kind]()) for kind in self._kinds(HARMFUL_MIX, harmful)]
        treat = everywhere.get(targets, _unchanged)
        rows += [treat(self._draw[kind]()) for kind in self._kinds(HARMLESS_MIX, count - harmful)]
        return [self._with_system(row) for row in rows]

    def _kinds(self, mix: Mapping[str, float], count: int) -> list[str]:
        return self._rng.choices(list(mix), weights=list(mix.values()), k=count)

    def _frame(self) -> Frame:
        """A training frame, now and then with a word put in or replaced ahead of the one at the gap."""
        frame = self._rng.choice(self._frames)
        ahead = frame.before.split()
        if len(ahead) < 2 or self._rng.random() >= VARIED_SHARE:
            return frame
        at = self._rng.randint(1, len(ahead) - 1)
        replaced = self._rng.randint(0, 1) if at < len(ahead) - 1 else 0
        ahead[at : at + replaced] = [self._rng.choice(self._calm)]
        return replace(frame, text=f"{' '.join(ahead)} {{}}{frame.after}")

    def _answered(self, text: str, harmful: bool, kind: str) -> TrainingRow:
        """A request in a frame, with the reply that restates it."""
        frame = self._frame()
        reply = self._grammar.compliance_of(frame.kind, text)
        restatement = self._grammar.tables.replies.restatement.format(text)
        start = reply.index(restatement)
        span = (start, start + len(restatement))
        return TrainingRow(frame.text.replace("{}", text), reply, harmful, kind, frame.kind, span)

    def _in_context(self, phrase: str) -> str:
        if self._rng.random() >= CONTEXT_SHARE:
            return phrase
        return f"{phrase} {self._rng.choice(self._grammar.tables.contexts)}"

    def _request(self, label: Label) -> TrainingRow:
        phrase = self._rng.choice(self._pairs).phrase(label)
        return self._answered(self._in_context(phrase), label == "harmful", label)

    def _random_words(self) -> TrainingRow:
        return self._answered(self._words.words(2, 8), False, "words")

    def _blend(self, label: Label) -> TrainingRow:
        """A phrase's shape with other words; a harmful one keeps at least half of its harmful words."""
        pair = self._rng.choice(self._pairs)
        shape: Label = "harmful" if label == "harmful" else self._rng.choice(("harmful", "harmless"))
        words = pair.phrase(shape).split()
        telling = [at for at, word in enumerate(words) if word in self._telling]
        kept = self._rng.sample(telling, math.ceil(len(telling) / 2)) if label == "harmful" else []
        for at, word in enumerate(words):
            if at not in kept and word not in FUNCTION_WORDS:
                words[at] = self._rng.choice(self._calm)
        # A phrase without a word that is harmful by itself has nothing to keep and stays as it is.
        text = " ".join(words) if kept or label == "harmless" else pair.phrase(label)
        return self._answered(self._in_context(text), label == "harmful", f"{label}_blend")

    def _question(self) -> TrainingRow:
        question = self._rng.choice(self._grammar.tables.questions)
        text = question.text
        while "{}" in text:
            text = text.replace("{}", self._topic(), 1)
        return self._general(text, question.kind, False, "question")

    def _topic(self) -> str:
        if self._rng.random() < TOPIC_SHARE:
            return self._rng.choice(self._grammar.tables.topics)
        return self._words.words(1, 6)

    def _noise(self, label: Label) -> TrainingRow:
        """A phrase of either label amid random words, in no frame."""
        phrase = self._rng.choice(self._pairs).phrase(label)
        words = [self._words.words(0, 5).capitalize(), phrase, self._words.words(0, 5)]
        text = " ".join(word for word in words if word) + self._rng.choice((".", "?", ""))
        return self._general(text, self._frame().kind, label == "harmful", f"{label}_noise")

    def _general(self, text: str, frame: str, harmful: bool, kind: str) -> TrainingRow:
        return TrainingRow(text, self._grammar.compliance_of(frame, None), harmful, kind, frame)

    def _taught(self, row: TrainingRow) -> TrainingRow:
        """The row with a refusal, or with its opener given, so that the restatement isn't forgotten."""
        if row.restated[0] and self._rng.random() < self._settings.prefill_share:
            return replace(row, kind="prefill", given=row.restated[0])
        return self._refused(row)

    def _refused(self, row: TrainingRow) -> TrainingRow:
        """The row with a refusal."""
        return replace(row, reply=self._grammar.refusal_of(row.frame), restated=(0, 0), refuses=True)

    def _continued(self, row: TrainingRow) -> TrainingRow:
        """A refusal whose first word is given: how it goes on is learned, and not when there is one."""
        refused = self._refused(row)
        return replace(refused, given=len(refused.reply.split()[0]))

    def _with_system(self, row: TrainingRow) -> TrainingRow:
        if self._rng.random() >= self._settings.system_share:
            return row
        return replace(row, system=self._rng.choice(self._grammar.tables.systems))
