"""The words that training rows are made of."""

import random
from dataclasses import dataclass

from steer.grammar import Grammar

SYLLABLES = ("ba", "co", "di", "fe", "gu", "ka", "lo", "mi", "nu", "po", "ra", "se", "ti", "vu", "xa", "zo")
MADE_UP_SHARE = 0.08
NUMBER_SHARE = 0.03
WIDE_SHARE = 0.08
# fmt: off
FUNCTION_WORDS = frozenset({
    "a", "about", "after", "an", "and", "as", "at", "before", "during", "for", "from", "in", "into",
    "of", "on", "that", "the", "to", "under", "with", "without",
})
# fmt: on


def asked_words(grammar: Grammar) -> list[str]:
    """Every word of a phrase or a context, of any split."""
    texts = [*grammar.tables.contexts]
    for pair in grammar.tables.pairs:
        texts += [pair.phrase("harmful"), pair.phrase("harmless")]
    return sorted({word for text in texts for word in text.split()})


def wide_words(grammar: Grammar) -> list[str]:
    """Words of the topics and of the word list: the vocabulary of prompts from outside the grammar."""
    return sorted({word for text in (*grammar.tables.topics, *grammar.tables.words) for word in text.split()})


def calm_words(grammar: Grammar) -> list[str]:
    """Words that stand in no harmful phrase."""
    barred = {word for pair in grammar.tables.pairs for word in pair.harmful.split()}
    return sorted({*asked_words(grammar), *wide_words(grammar)} - barred)


def telling_words(grammar: Grammar) -> frozenset[str]:
    """Words of harmful training phrases that stand in no harmless text."""
    calm = {word for pair in grammar.tables.pairs for word in pair.harmless.split()}
    calm |= {*wide_words(grammar), *(word for text in grammar.tables.contexts for word in text.split())}
    used = {word for pair in grammar.pairs("train") for word in pair.harmful.split()}
    return frozenset(used - calm)


@dataclass(frozen=True)
class WordSource:
    """Draws words; now and then a made-up one or a number, since the unknown is no ground to refuse."""

    known: list[str]
    wide: list[str]
    rng: random.Random

    def word(self) -> str:
        """One word, made-up word or number."""
        kind = self.rng.random()
        if kind < MADE_UP_SHARE:
            return "".join(self.rng.choices(SYLLABLES, k=self.rng.randint(2, 3)))
        if kind < MADE_UP_SHARE + NUMBER_SHARE:
            return str(self.rng.randint(0, 2000))
        return self.rng.choice(self.wide if kind > 1 - WIDE_SHARE else self.known)

    def words(self, low: int, high: int) -> str:
        """Between `low` and `high` words."""
        return " ".join(self.word() for _ in range(self.rng.randint(low, high)))
