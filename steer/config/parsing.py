"""Values become settings, or an error that names the key."""

import re
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from steer.config.names import nearest
from steer.config.root import Config
from steer.config.wording import worded
from steer.errors import SteerError

TAGS = ("kind", "operation")
"""Settings that tell which kind of a section is meant."""
FORM = re.compile(r"(tuple|list|dict|literal|nullable|constrained-\w+|function-\w+)\[")
"""How pydantic calls a form of a value in the location of a problem; a user's keys may have brackets."""


def parse(values: dict[str, Any], origin: str = "the configuration") -> Config:
    """Type a configuration that was read from `origin`.

    Raises:
        SteerError: an unknown key (with the nearest known one), a missing key or a value out of range.
    """
    try:
        return Config.model_validate({key: _kept(key, section) for key, section in values.items()})
    except ValidationError as error:
        # A value that fits none of several forms is a problem of each.
        problems = "; ".join(dict.fromkeys(_explain(problem) for problem in error.errors()))
        raise SteerError(origin, problems, "see the table of settings in the README") from error


def named_sections() -> list[str]:
    """Sections whose members the user names, and can leave out."""
    fields = Config.model_fields.items()
    return [key for key, field in fields if get_origin(field.annotation) is dict]


def _kept(key: str, section: Any) -> Any:
    """A section without the members that an override leaves out by saying `false`."""
    if key not in named_sections() or not isinstance(section, dict):
        return section
    return {name: member for name, member in section.items() if member is not False}


def _explain(problem: Any) -> str:
    location = problem["loc"]
    if several := _fits_no_form(location):
        return several
    keys, _ = _walk(location)
    dotted = ".".join(keys)
    if problem["type"] == "extra_forbidden":
        _, sections = _walk(location[:-1])
        known = sorted({name for section in sections for name in section.model_fields})
        return f"unknown key `{dotted}`; {nearest(keys[-1], known)}"
    if problem["type"] == "missing":
        return f"missing key `{dotted}`"
    if problem["type"] == "union_tag_not_found":
        return f"missing key `{dotted}.{problem['ctx']['discriminator'].strip(chr(39))}`"
    if problem["type"] == "union_tag_invalid":
        about = problem["ctx"]
        hint = nearest(about["tag"], [known.strip("'") for known in about["expected_tags"].split(", ")])
        return f"`{dotted}.{about['discriminator'].strip(chr(39))}`: unknown `{about['tag']}`; {hint}"
    message = worded(problem)
    return f"`{dotted}`: {message}" if dotted else message


def _fits_no_form(location: tuple[int | str, ...]) -> str | None:
    """The problem of a value that may have several forms, which pydantic tells of each of them."""
    at = next((at for at, part in enumerate(location) if at and FORM.match(str(part))), None)
    if at is None:
        return None
    keys, _ = _walk(location[:at])
    _, sections = _walk(location[: at - 1])
    fields = [section.model_fields.get(str(location[at - 1])) for section in sections]
    told = next((field.description for field in fields if field and field.description), "")
    return f"`{'.'.join(keys)}`: fits none of its forms. {told}".strip()


def _walk(location: tuple[int | str, ...]) -> tuple[list[str], list[type[BaseModel]]]:
    """The keys that a location goes through, and the sections that it may end in.

    Pydantic puts the kind of a judge or an arm into the location; it is no key, but it says which section
    is meant.
    """
    keys: list[str] = []
    found: Any = Config
    for part in location:
        of_kind = [model for model in _models_in(found) if part in _kinds_of(model)]
        is_name = get_origin(found) is dict
        if part == "[key]":
            # The name itself is what is wrong, and it stands before.
            continue
        if is_name or not of_kind:
            keys.append(str(part))
        found = get_args(found)[1] if is_name else of_kind or _member(found, part)
    return keys, _models_in(found)


def _kinds_of(model: type[BaseModel]) -> tuple[Any, ...]:
    fields = [model.model_fields[name] for name in TAGS if name in model.model_fields]
    return tuple(kind for field in fields for kind in get_args(field.annotation))


def _member(found: Any, part: int | str) -> Any:
    """What the key `part` of a section holds; for an index, the same models stay in view."""
    fields = [model.model_fields.get(str(part)) for model in _models_in(found)]
    held = [field.annotation for field in fields if field]
    return held[0] if len(held) == 1 else held or found


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, list):
        return [model for member in annotation for model in _models_in(member)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for member in get_args(annotation) for model in _models_in(member)]
