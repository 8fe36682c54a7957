"""What is wrong with a value, in the words of the README and not in those of the library that types it."""

from collections.abc import Callable, Mapping
from typing import Any

from steer.naming import NAME

SECTION = "wants settings of its own, as in `name: {key: value}`"
LONGEST = 60
"""Characters of a wrong value that a message shows."""

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text",
    "tuple": "a list",
    "list": "a list",
}
SAID: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than": lambda about: f"must be more than {about['gt']:g}",
    "greater_than_equal": lambda about: f"must be at least {about['ge']:g}",
    "less_than": lambda about: f"must be less than {about['lt']:g}",
    "less_than_equal": lambda about: f"must be at most {about['le']:g}",
    "literal_error": lambda about: f"use {about['expected']}",
    "string_pattern_mismatch": lambda about: f"which is not of the form {about['pattern']}",
    "string_too_long": lambda about: f"which has more than {about['max_length']} characters",
    "too_short": lambda about: (
        f"has {about['actual_length']} entries and needs at least {about['min_length']}"
    ),
    "too_long": lambda about: f"has {about['actual_length']} entries and may have {about['max_length']}",
}


def worded(problem: Mapping[str, Any]) -> str:
    """What is wrong, of a problem as pydantic tells it."""
    kind, about = problem["type"], problem.get("ctx") or {}
    if kind in ("model_attributes_type", "model_type", "dict_type"):
        return SECTION
    if kind == "string_pattern_mismatch" and about["pattern"] == NAME:
        return "a name has lower-case letters, digits, `-` and `_`, the last two not first"
    if kind in ("too_short", "too_long"):
        return SAID[kind](about)
    if is_secret(problem["loc"]):
        # A key that was pasted in by mistake must not reach a log.
        return SAID[kind](about) if kind in SAID else "is not what is wanted there; it is not shown"
    if kind in SAID:
        return f"is {shown(problem['input'])}; {SAID[kind](about)}"
    if (wanted := KINDS.get(kind.partition("_")[0])) and kind.endswith(("_type", "_parsing", "_from_float")):
        return f"is {shown(problem['input'])}, not {wanted}"
    return str(problem["msg"]).removeprefix("Value error, ")


def is_secret(location: tuple[int | str, ...]) -> bool:
    """Whether someone may have put a key there: it is a judge's `key`, or stands in its `extra` fields."""
    return location[:1] == ("judges",) and (location[-1] == "key" or "extra" in location[2:])


def shown(value: Any) -> str:
    """A wrong value, cut where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
