"""Normalising and matching answers, letter by letter, without regular expressions or translation tables."""

import unicodedata

ARTICLES = ("a", "an", "the")


def words(text: str) -> list[str]:
    """The words of a text, lower case, without punctuation and articles."""
    kept = ""
    for letter in text.lower():
        symbol = unicodedata.category(letter)[0] in "PS" and (letter.isascii() or letter in "’‘“”–—…")
        kept += "" if symbol else letter
    return [word for word in kept.split() if word not in ARTICLES]


def stands_in(answer: str, reply: str, *, whole: bool) -> bool:
    """Whether the words of an answer are those of the reply, or a run of them."""
    wanted, given = words(answer), words(reply)
    if not wanted:
        return False
    if whole:
        return wanted == given
    return any(given[at : at + len(wanted)] == wanted for at in range(len(given) - len(wanted) + 1))
