"""Judged text is untrusted: nothing in it may end its own turn or open another one."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

MARK = "0judged0text0"
"""Stands for judged text in a question whose own words are looked at."""

_ANGLES = str.maketrans({**dict.fromkeys("‹〈⟨❮", "<"), **dict.fromkeys("›〉⟩❯", ">")})
_UNSEEN = ("Cc", "Cf", "Cs")
"""Categories of characters that are no text: control, format (zero width, direction, tags), half a pair."""

_BRACKETS = re.compile(r"[<>\[\]{}|#]")


def template_delimiters(tokenizer: Any, question: str | None = None) -> set[str]:
    """Strings by which a tokenizer's chat template, or another question, sets off its turns.

    All tokens that the tokenizer finds in text as a whole (`<|im_end|>`, `</think>`), and the
    bracketed words that the template itself writes around a user turn (`[/INST]`, `<<SYS>>`).

    Args:
        tokenizer: the tokenizer.
        question: a question about `MARK` that goes without the chat template; None for that template.
    """
    tokens = {token.content for token in tokenizer.added_tokens_decoder.values()}
    rendered = question or tokenizer.apply_chat_template(
        [{"role": "user", "content": MARK}], add_generation_prompt=True, tokenize=False
    )
    for token in sorted(tokens, key=len, reverse=True):
        rendered = rendered.replace(token, " ")
    words = {word for word in rendered.replace(MARK, " ").split() if _BRACKETS.search(word)}
    return tokens | words


class Neutraliser:
    """Break delimiters wherever they occur in a text, so that it stays readable.

    Args:
        delimiters: the strings to break, in any capitalisation. Those of a single character, or of
            blanks, have no inside to break and are left alone.
    """

    def __init__(self, delimiters: Iterable[str]) -> None:
        breakable = {text for text in delimiters if len(text.strip()) > 1}
        longest_first = sorted(breakable, key=lambda text: (-len(text), text))
        pattern = "|".join(re.escape(text) for text in longest_first)
        self._pattern = re.compile(pattern, re.IGNORECASE) if pattern else None

    def __call__(self, text: str) -> str:
        """The plain text with a blank after the first visible character of each delimiter in it."""
        text = plain(text)
        while self._pattern and self._pattern.search(text):
            text = self._pattern.sub(_broken, text)
        return text


def plain(text: str) -> str:
    """The text without characters that can't be seen, and with letters and brackets in their plain form.

    Either could pass a delimiter by a search that a model reads as one all the same.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_ANGLES)
    if text.isascii() and text.isprintable():
        return text
    seen = (mark for mark in text if mark in "\n\t" or unicodedata.category(mark) not in _UNSEEN)
    return "".join(map(_usual, seen))


def _usual(mark: str) -> str:
    """The ASCII letter or bracket that a character is another form of, else the character."""
    form = unicodedata.normalize("NFKC", mark)
    return form if len(form) == 1 and form.isascii() and (form.isalpha() or form in "<>/|[]") else mark


def _broken(match: re.Match[str]) -> str:
    return re.sub(r"(\S)", r"\1 ", match[0], count=1)
