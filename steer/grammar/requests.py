"""Requests (phrase and context) and the prompts they make, written and read back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from steer.grammar.tables import Frame, Label, Pair


@dataclass(frozen=True)
class Request:
    """What a prompt asks for, without its frame."""

    pair: Pair
    label: Label
    context: str

    @property
    def phrase(self) -> str:
        """Verb and object."""
        return self.pair.phrase(self.label)

    @property
    def text(self) -> str:
        """Phrase and context: exactly what a compliance must restate."""
        return f"{self.phrase} {self.context}".rstrip()


@dataclass(frozen=True)
class Prompt:
    """A request in its frame."""

    frame: Frame
    request: Request

    @property
    def text(self) -> str:
        """The user's message."""
        return self.frame.text.replace("{}", self.request.text)


class PromptReader:
    """Finds frame and request of a prompt written by the grammar."""

    def __init__(self, pairs: Iterable[Pair], frames: Sequence[Frame], contexts: Iterable[str]) -> None:
        self._phrases = {pair.phrase(label): (pair, label) for pair in pairs for label in get_args(Label)}
        self._frames = frames
        self._contexts = ("", *contexts)

    def read(self, text: str) -> Prompt | None:
        """The prompt's frame and request, or None when the grammar can't have written it."""
        for frame in self._frames:
            if text.startswith(frame.before) and text.endswith(frame.after):
                request = self._request(text[len(frame.before) : len(text) - len(frame.after)])
                if request is not None:
                    return Prompt(frame, request)
        return None

    def _request(self, inner: str) -> Request | None:
        for context in self._contexts:
            phrase = inner.removesuffix(f" {context}") if context else inner
            if phrase in self._phrases and f"{phrase} {context}".rstrip() == inner:
                pair, label = self._phrases[phrase]
                return Request(pair, label, context)
        return None
