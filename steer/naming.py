"""Names in the configuration, and results that are called by what decides them."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, Field

from steer.artifacts.provenance import digest

NAME = r"^[a-z0-9][a-z0-9_-]*$"
Name = Annotated[str, Field(pattern=NAME, max_length=60)]
Part = TypeVar("Part", bound=BaseModel)


def part_of(settings: BaseModel, kind: type[Part]) -> Part:
    """The settings of a shared first stage alone, out of those of a model that goes on from it."""
    return kind(**settings.model_dump(include=set(kind.model_fields)))


def settings_name(settings: BaseModel) -> str:
    """Name of a result: a digest of exactly the settings that decide it."""
    return digest(settings.model_dump(mode="json"))
