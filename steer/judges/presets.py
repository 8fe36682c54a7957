"""Published judges: the rows of data/judges.yaml."""

from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from steer.artifacts.tables import read_named_rows
from steer.judges.verdicts import VERDICTS, Verdict

TABLE = Path(__file__).parents[2] / "data" / "judges.yaml"


class Preset(BaseModel):
    """A published judge.

    Attributes:
        model: its name on the hub.
        revision: its commit; None for the newest at the first download.
        gated: whether a person must accept its terms first.
        template: row of the table of sources that holds what it is asked; None: it comes with its tokenizer.
        offers: what it may say, and the verdict that each stands for.
        about: what it is, where it is from, and what it can't tell.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str | None = Field(None, pattern=r"^[0-9a-f]{40}$")
    gated: bool = False
    template: str | None = None
    offers: dict[str, Verdict] = Field(min_length=2)
    about: str = Field(min_length=1)

    @field_validator("offers")
    @classmethod
    def _are_verdicts(cls, offers: dict[str, Verdict]) -> dict[str, Verdict]:
        if other := {*offers.values()} - {*VERDICTS}:
            raise ValueError(f"`{min(other)}` is no verdict")
        return offers


@lru_cache
def presets(table: Path = TABLE) -> dict[str, Preset]:
    """Every row, by name.

    Raises:
        SteerError: the table is missing, or a row is malformed.
    """
    return read_named_rows(table, Preset)
