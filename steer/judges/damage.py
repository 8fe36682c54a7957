"""Ways in which a text breaks under steering: words lost, doubled, replaced, looped, cut or spliced."""

import random
import re
from collections.abc import Callable, Sequence

Words = list[str]
"""A text as words, each with the blanks before it, so that joining gives the text back."""


def split_words(text: str) -> Words:
    """The words of a text."""
    return re.findall(r"\s*\S+", text)


class Damage:
    """Breaks texts at random.

    Args:
        rng: source of all choices.
        stray: draws a word that does not belong in the text.
    """

    def __init__(self, rng: random.Random, stray: Callable[[], str]) -> None:
        self._rng = rng
        self._stray = stray
        self._ways: tuple[Callable[[Words], Words], ...] = (
            self._replaced,
            self._replaced,
            self._dropped,
            self._inserted,
            self._doubled,
            self._swapped,
            self._looped,
            self._cut,
            self._glued,
            self._stuttered,
            self._stuttered,
        )

    def __call__(self, text: str) -> str:
        """The text after one to three accidents; now and then they leave it as it was."""
        words = split_words(text)
        for _ in range(self._rng.choice((1, 1, 1, 2, 3))):
            words = self._rng.choice(self._ways)(words) if words else words
        return "".join(words).strip()

    def splice(self, one: str, other: str) -> str:
        """The beginning of one text with the end of another."""
        head, tail = split_words(one), split_words(other)
        return "".join([*head[: self._at(head)], *tail[self._at(tail) :]]).strip()

    def _at(self, words: Sequence[str]) -> int:
        return self._rng.randrange(len(words))

    def _replaced(self, words: Words) -> Words:
        at = self._at(words)
        return [*words[:at], f" {self._stray()}", *words[at + 1 :]]

    def _dropped(self, words: Words) -> Words:
        at = self._at(words)
        return [*words[:at], *words[at + self._rng.randint(1, 3) :]]

    def _inserted(self, words: Words) -> Words:
        at = self._rng.randint(0, len(words))
        return [*words[:at], f" {self._stray()}", *words[at:]]

    def _doubled(self, words: Words) -> Words:
        at = self._at(words)
        return [*words[: at + 1], words[self._at(words)], *words[at + 1 :]]

    def _swapped(self, words: Words) -> Words:
        at, to = self._at(words), self._at(words)
        swapped = list(words)
        swapped[at], swapped[to] = words[to], words[at]
        return swapped

    def _looped(self, words: Words) -> Words:
        """A few words over and over, as a vector that is too long makes them."""
        at, size = self._at(words), self._rng.choice((1, 1, 1, 2, 3))
        loop = words[at : at + size] * self._rng.randint(2, 8)
        return [*words[:at], *loop, *(words[at + size :] if self._rng.random() < 0.5 else [])]

    def _cut(self, words: Words) -> Words:
        return words[: self._rng.randint(1, len(words))]

    def _glued(self, words: Words) -> Words:
        """A word cut short, or run together with its neighbour."""
        at = self._at(words)
        word = words[at]
        mended = word[: self._rng.randint(1, max(1, len(word)))] if self._rng.random() < 0.5 else word.strip()
        return [*words[:at], mended, *words[at + 1 :]]

    def _stuttered(self, words: Words) -> Words:
        """A piece of a word said twice or left out."""
        at = self._at(words)
        word, size = words[at], self._rng.randint(1, 4)
        # Behind the first letter, so that the blank ahead stays.
        start = self._rng.randint(min(2, len(word) - 1), len(word) - 1)
        piece = word[start : start + size] * self._rng.choice((0, 2, 2))
        return [*words[:at], word[:start] + piece + word[start + size :], *words[at + 1 :]]
