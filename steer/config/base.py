"""What every section of the settings shares."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from steer.naming import Name

__all__ = ["Name", "Scope", "Settings", "Share", "Split"]

Scope = Literal["prompt", "generated", "all"]
Split = Literal["train", "val", "test"]
Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """A section that rejects unknown keys and can't be changed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)
