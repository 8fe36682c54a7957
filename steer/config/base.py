"""What every section of the settings shares."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Scope = Literal["prompt", "generated", "all"]
Split = Literal["train", "val", "test"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=60)]
Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """A section that rejects unknown keys and can't be changed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)
