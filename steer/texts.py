"""What a prompt may hold, whoever wrote it."""

import re
import unicodedata

from steer.errors import SteerError

LONGEST = 64 * 1024
"""Bytes of a prompt: with a document of many pages it is shorter; what is longer is a broken file."""
SPACES = "\n\t\r"


_PIECE = re.compile(r"\s*(?:\w+|[^\w\s])")


def cut(text: str, length: int) -> str:
    """The first `length` words and marks of a text: about as many tokens."""
    pieces = [match.end() for match in _PIECE.finditer(text)]
    return text[: pieces[length - 1]] if len(pieces) > length else text


def check_text(text: str, where: str) -> None:
    """Check a prompt of a user's own file.

    Markup is no fault: a prompt may be about it, and is passed on as it is.

    Raises:
        SteerError: it holds a control character or half of a surrogate pair, or is longer than `LONGEST`.
    """
    if bad := next((character for character in text if _is_control(character)), None):
        cause = f"holds the control character U+{ord(bad):04X}"
        raise SteerError(where, cause, "remove it: a model would read it as something else than you do")
    size = len(text.encode())
    if size > LONGEST:
        raise SteerError(where, f"is {size} bytes long, the longest is {LONGEST}", "shorten it, or remove it")


def without_control_characters(text: str) -> str:
    """A published text without what no reader sees; a whole set is not given up for one of them."""
    return "".join(character for character in text if not _is_control(character))


def _is_control(character: str) -> bool:
    return character not in SPACES and unicodedata.category(character) in ("Cc", "Cs")
