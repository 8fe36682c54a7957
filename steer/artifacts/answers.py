"""The answers to a question: what its document says, and what is known without one."""

from dataclasses import dataclass
from typing import Any

from steer.artifacts.files import Row
from steer.errors import SteerError


@dataclass(frozen=True)
class Answers:
    """Accepted answers by where they are from.

    Attributes:
        document: what the document says; none where it says nothing about it, or where there is no document.
        memory: what is true without it, as far as it is known.
    """

    document: tuple[str, ...] = ()
    memory: tuple[str, ...] = ()


def read_answers(row: Row, where: str) -> Answers | None:
    """The answers of a row of a prompt set; None for a prompt that is no question with answers.

    Raises:
        SteerError: they are not lists of texts.
    """
    if row.get("answers") is None and row.get("memory") is None:
        return None
    found = [_texts(row.get(key) or [], key, where) for key in ("answers", "memory")]
    return Answers(*found)


def _texts(value: Any, key: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise SteerError(where, f"`{key}` is not a list of texts", 'write it as `["one", "another"]`')
    return tuple(value)
