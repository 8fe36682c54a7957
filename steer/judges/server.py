"""A model behind an OpenAI-compatible server as judge; its answers are kept, and never asked for twice."""

import asyncio
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from steer.artifacts.files import Row
from steer.artifacts.journal import Journal
from steer.artifacts.locks import sole_writer
from steer.artifacts.provenance import code_digest, digest
from steer.errors import SteerError
from steer.judges.answers import UnusableError, read_answer
from steer.judges.asking import TOKENS, Reply, ask
from steer.judges.prices import Usage, bill, forecast
from steer.judges.rubrics import REASONED, Rubric
from steer.judges.settings import ServerJudge
from steer.judges.untrusted import Neutraliser
from steer.judges.verdicts import UNSCORED, Exchange, Judgement, scored

# The server's own delimiters can't be asked for; nearly all of them are of these shapes.
DELIMITERS = (
    *("<|", "|>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>"),
    *("<start_of_turn>", "<end_of_turn>", "<think>", "</think>"),
)


def answers_path(results: Path, name: str) -> Path:
    """Where the answers of the judge `name` are kept, for all models and sets."""
    return results / "judges" / name / "answers.jsonl"


def read_key(name: str, settings: ServerJudge) -> str | None:
    """The key, from the environment; None for a server without keys.

    Raises:
        SteerError: the variable is not set, or holds what can't be a key. The value is never named.
    """
    if settings.key is None:
        return None
    key = os.environ.get(settings.key, "").strip()
    thing, step = f"judge `{name}`", f"export {settings.key}=…, and run again"
    if not key:
        raise SteerError(thing, f"the variable {settings.key}, which its key is read from, is not set", step)
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise SteerError(thing, f"what {settings.key} holds is no key: it has blanks or odd characters", step)
    return key


@dataclass
class ServerJudging:
    """Judge by asking a server.

    Attributes:
        name: the judge's name in the configuration.
        settings: the server, the model and how it is asked.
        answers: file of the answers that are kept, by what was asked.
        key: for the server; never written anywhere.
    """

    name: str
    settings: ServerJudge
    answers: Path
    key: str | None = field(repr=False)
    _used: Usage = field(default_factory=Usage, init=False)
    _failed: int = field(default=0, init=False)
    _reasons: Counter[str] = field(default_factory=Counter, init=False)

    @property
    def rubric(self) -> Rubric:
        """The question and the offers."""
        return REASONED[self.settings.rubric]

    @cached_property
    def version(self) -> str:
        """Digest of what is asked, of whom, and of the code that reads the answers."""
        return f"server-{digest([*self._asked, code_digest(__name__)])}"

    @cached_property
    def _asked(self) -> list[Any]:
        # Not the address: the same model may be served elsewhere tomorrow.
        settings = self.settings
        how = settings.model_dump(
            mode="json", include={"structured", "max_new_tokens", "temperature", "extra"}
        )
        return [settings.model, self.rubric.digest, how]

    @cached_property
    def _neutralise(self) -> Neutraliser:
        return Neutraliser({*DELIMITERS, *self.rubric.fences})

    def question(self, exchange: Exchange) -> str:
        """What the server is asked about an exchange; the tags bear a mark that its author can't foresee."""
        mark = f"-{digest([exchange.prompt, exchange.reply])[:8]}"
        return self.rubric.render(self._neutralise(exchange.prompt), self._neutralise(exchange.reply), mark)

    def _key_of(self, exchange: Exchange) -> str:
        return digest([*self._asked, exchange.prompt, exchange.reply])

    def judge(self, exchanges: Sequence[Exchange]) -> list[Judgement]:
        """One judgement per exchange: from the answers that are kept, or from the server.

        An answer is on disk before the next one is waited for. `unscored`, and not final, after an error
        or an answer without an offered verdict; final for a reply that is too long to be judged.

        Raises:
            SteerError: the server does not accept the key, knows no such model, or `give_up` questions in a
                row came to nothing.
        """
        short = [exchange for exchange in dict.fromkeys(exchanges) if not self._objection(exchange)]
        with sole_writer(self.answers), Journal(self.answers) as journal:
            new = [exchange for exchange in short if self._key_of(exchange) not in journal]
            failed = asyncio.run(self._ask(new, journal)) if new else {}
            return [self._judgement(exchange, journal, failed) for exchange in exchanges]

    def _objection(self, exchange: Exchange) -> str | None:
        if not exchange.reply.strip():
            return "the reply is blank"
        length = len(exchange.prompt) + len(exchange.reply)
        if length > self.settings.max_characters:
            return f"{length} characters to read, the limit is {self.settings.max_characters}"
        return None

    async def _ask(self, exchanges: Sequence[Exchange], journal: Journal) -> dict[Exchange, Reply]:
        """Ask, keep every answer, and return what could not be used."""
        failed = {}
        questions = [self.question(exchange) for exchange in exchanges]
        async for number, reply in ask(self.name, self.settings, self.key, self.rubric, questions):
            exchange = exchanges[number]
            self._used += Usage.of(reply.details, unusable=reply.error is not None)
            key = self._key_of(exchange)
            if reply.error is not None:
                failed[exchange] = reply
                key = _free(f"{key} unusable", journal)
            # What was paid for is kept, whether or not it can be used.
            if reply.text is not None or any(reply.details.get(name) for name in TOKENS):
                journal.add(key, self._row(reply))
            self._watch(reply)
        return failed

    def _row(self, reply: Reply) -> Row:
        return {"asked": self.settings.model, "rubric": self.rubric.digest, "answer": reply.text} | {
            "error": reply.error,
            **reply.details,
        }

    def _watch(self, reply: Reply) -> None:
        """Stop a run that gets nowhere, before it has waited for thousands of timeouts."""
        self._failed = self._failed + 1 if reply.error else 0
        self._reasons.update([reply.error] if reply.error else [])
        if self._failed >= self.settings.give_up:
            reason, _ = self._reasons.most_common(1)[0]
            cause = f"{self._failed} questions in a row came to nothing, mostly because: {reason}"
            step = (
                "see that the server answers (`structured: false` if it knows no JSON schema), and run again"
            )
            raise SteerError(f"judge `{self.name}`", cause, f"{step}: the answers so far are kept")

    def _judgement(self, exchange: Exchange, journal: Journal, failed: Mapping[Exchange, Reply]) -> Judgement:
        if objection := self._objection(exchange):
            return Judgement(UNSCORED, objection, self.version)
        if exchange in failed:
            reply = failed[exchange]
            raw = {"answer": reply.text, **reply.details}
            return Judgement(UNSCORED, str(reply.error), self.version, raw, final=False)
        row = journal.get(self._key_of(exchange))
        raw = {name: value for name, value in row.items() if name not in ("asked", "rubric", "error")}
        try:
            answer = read_answer(row["answer"], self.rubric.offers)
        except UnusableError as error:
            # It was read by older code. Paid for once, it is not asked for again.
            return Judgement(UNSCORED, str(error), self.version, raw)
        return Judgement(answer.verdict, answer.reason, self.version, raw | scored(answer.score))

    def forecast(self, exchanges: Iterable[Exchange]) -> str:
        """Questions that are still to be asked, their tokens and price, in words."""
        with sole_writer(self.answers), Journal(self.answers) as journal:
            return forecast(self.name, self.settings, self._open(exchanges, journal))

    def _open(self, exchanges: Iterable[Exchange], journal: Journal) -> Iterator[str]:
        seen: set[str] = set()
        for exchange in exchanges:
            key = self._key_of(exchange)
            if key not in seen and key not in journal and not self._objection(exchange):
                seen.add(key)
                yield self.question(exchange)

    def bill(self) -> str:
        """What was used by this run, and by all runs as far as it is kept, in words."""
        with sole_writer(self.answers):
            return bill(self.name, self.settings, self._used, self.answers)


def _free(key: str, journal: Journal) -> str:
    """`key` with the first number that is not taken."""
    number = 1
    while f"{key} {number}" in journal:
        number += 1
    return f"{key} {number}"
