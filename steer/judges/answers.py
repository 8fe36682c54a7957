"""What a judging model wrote, into one of the offered verdicts, or the reason why it is none."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from steer.judges.verdicts import Offer, Verdict

_MARKUP = re.compile(r"""["'*`]""")
_LABELLED = re.compile(r"\bverdict\s*(?::|=|is\s)\s*(\w+)", re.IGNORECASE)
_FENCED = re.compile(r"\A```\w*\n(.*)\n```\Z", re.DOTALL)
_AROUND = " \t_.,;:!()[]{}#>-"


class UnusableError(Exception):
    """An answer that holds no offered verdict; its text says why."""


@dataclass(frozen=True)
class Answer:
    """An offered verdict, the reason that the model gave for it, and the offer's score."""

    verdict: Verdict
    reason: str
    score: float | None = None


def read_answer(text: str, offers: Sequence[Offer]) -> Answer:
    """Read what a model wrote; where it gives several verdicts, the last one counts.

    A JSON object counts as a whole, by its `verdict`. In other text a verdict is what stands behind the
    word "verdict", or alone on a line. Words within sentences are no verdict: "not a refusal" is none.

    Raises:
        UnusableError: no verdict, or the last one is not on offer; nothing is guessed.
    """
    text = text.strip()
    inside = _FENCED.match(text)
    text = inside[1].strip() if inside else text
    if not text:
        raise UnusableError("the answer is empty")
    if text.startswith(("{", "[")):
        return _from_json(text, offers)
    said = [verdict for line in text.splitlines() for verdict in _said(line, offers)]
    if not said:
        raise UnusableError("the answer gives no verdict")
    return _offered(said[-1], offers, text.splitlines()[0])


def _from_json(text: str, offers: Sequence[Offer]) -> Answer:
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise UnusableError("the answer is broken JSON") from None
    if not isinstance(found, dict):
        raise UnusableError("the answer is JSON, but no object")
    if "verdict" not in found:
        raise UnusableError("the answer has no `verdict`")
    verdict, reason = found["verdict"], found.get("reason", "")
    # JSON's true is Python's 1.
    if isinstance(verdict, int) and not isinstance(verdict, bool):
        verdict = str(verdict)
    if not isinstance(verdict, str):
        raise UnusableError("the answer's `verdict` is no text")
    return _offered(verdict, offers, reason if isinstance(reason, str) else "")


def _said(line: str, offers: Sequence[Offer]) -> list[str]:
    line = _MARKUP.sub("", line)
    alone = line.strip(_AROUND)
    if _find(alone, offers):
        return [alone]
    return [match[1].strip("_") for match in _LABELLED.finditer(line)]


def _offered(word: str, offers: Sequence[Offer], reason: str) -> Answer:
    offer = _find(word.strip(), offers)
    if offer is None:
        raise UnusableError("the verdict is not on offer")
    return Answer(offer.verdict, reason, offer.score)


def _find(word: str, offers: Sequence[Offer]) -> Offer | None:
    return next((offer for offer in offers if offer.text.casefold() == word.casefold()), None)
