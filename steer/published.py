"""Numbers that others published, as rows: what a study is laid beside."""

import csv
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from steer.errors import SteerError
from steer.stats import Interval, difference_of_shares, wilson

PUBLISHED = Path("data/published.csv")
ROUNDING = 0.006
"""Largest difference of a printed rate from a whole number of prompts: papers print whole per cents."""


def _cell(value: Any) -> Any:
    return None if value == "" else value


Number = Annotated[float | None, BeforeValidator(_cell)]
Whole = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(_cell)]
Unit = Literal[
    "",
    "rate",
    "difference",
    "share",
    "count",
    "index",
    "nats",
    "percentage_points",
    "seconds",
    "minutes",
    "hours",
    "tokens_per_second",
    "gibibytes",
]


class Published(BaseModel):
    """A number of a paper, or two numbers that contradict each other."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", description="Name of the row.")
    paper: str = Field(min_length=1, description="arXiv number or name of the project.")
    kind: Literal["number", "contradiction"] = Field(description="What the row is.")
    model: str = Field(description="As the model hub names it, where that is known.")
    arm: str = Field(description="What was done to the model.")
    set: str = Field(description="Prompts, with the attack behind a plus sign.")
    metric: str = Field(description="What was measured.")
    layer: Whole = Field(description="Of an expert.")
    expert: Whole = Field(description="Of an expert.")
    unit: Unit = Field(description="Rates are shares of prompts, in [0, 1].")
    relation: Literal["", "=", "~", "<", "<=", ">", ">=", "range"] = Field(
        description="How the number is meant: exactly, about, as a bound, or from `value` to `value_to`."
    )
    value: Number = Field(description="The number; the lower one of a range.")
    value_to: Number = Field(description="The upper end of a range.")
    n: Whole = Field(description="Prompts behind it, where that is known.")
    ci_low: Number = Field(description="Wilson interval at 95 %, of a rate whose n is known.")
    ci_high: Number = Field(description="Its other end.")
    source: str = Field(min_length=1, description="Table, section or file.")
    reading: Literal["paper", "code", "calculated", "page", "readme", "docs", "issue", "notebook"] = Field(
        description="Where it was read; `calculated` from published files, `page` at second hand."
    )
    concerns: str = Field(description="Rows that contradict each other.")
    doubts: str = Field(description="What is known to be unsure about it; what contradicts what.")

    @model_validator(mode="after")
    def _is_whole(self) -> "Published":
        if self.kind == "contradiction":
            if not (self.concerns and self.doubts) or self.value is not None:
                raise ValueError("a contradiction names the rows it `concerns` and has no value")
            return self
        if self.value is None or not (self.metric and self.unit and self.relation):
            raise ValueError("a number has `value`, `metric`, `unit` and `relation`")
        if (self.relation == "range") != (self.value_to is not None):
            raise ValueError("`value_to` is for ranges")
        if (self.layer is None) != (self.expert is None):
            raise ValueError("`layer` and `expert` go together")
        if self.unit == "rate" and not 0 <= self.value <= 1:
            raise ValueError(f"the rate {self.value} is not in [0, 1]")
        return self._interval_is_right()

    def _interval_is_right(self) -> "Published":
        found = self.ci_low, self.ci_high
        if not self.has_interval:
            if found != (None, None):
                raise ValueError("an interval needs a rate, exactly stated, and its n")
            return self
        successes = self.successes
        if abs(successes / self.prompts - (self.value or 0)) > ROUNDING:
            raise ValueError(f"{self.value} is no rate of {self.n} prompts")
        _, low, high = wilson(successes, self.prompts)
        if found != (round(low, 4), round(high, 4)):
            raise ValueError(f"the Wilson interval is {low:.4f} to {high:.4f}")
        return self

    @property
    def has_interval(self) -> bool:
        """Whether the interval can be known."""
        return self.unit == "rate" and self.relation == "=" and bool(self.n)

    @property
    def prompts(self) -> int:
        """The n of a rate that has one."""
        return self.n or 0

    @property
    def successes(self) -> int:
        """How many prompts the rate counts."""
        return round((self.value or 0) * self.prompts)


def read_published(table: Path = PUBLISHED) -> list[Published]:
    """All rows of the table.

    Raises:
        SteerError: the table is missing, a row is malformed or doubled (named by its line), or a
            contradiction is about a row that is not there.
    """
    if not table.is_file():
        raise SteerError(str(table), "no such file", "run from the project's folder, or restore the file")
    with table.open(encoding="utf-8", newline="") as stream:
        rows = [_parse(row, f"{table}, line {line}") for line, row in enumerate(csv.DictReader(stream), 2)]
    known = {row.id for row in rows}
    if len(known) != len(rows):
        ids = [row.id for row in rows]
        double = next(name for name in ids if ids.count(name) > 1)
        raise SteerError(str(table), f"`{double}` is there twice", "rename one")
    for row in rows:
        if lost := [name for name in row.concerns.split() if name not in known]:
            raise SteerError(str(table), f"`{row.id}` concerns `{lost[0]}`, which is not there", "mend it")
    return rows


def _parse(row: dict[str, Any], where: str) -> Published:
    try:
        return Published.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "row"
        raise SteerError(where, f"`{key}`: {first['msg']}", "mend the row") from error


def same_rate(one: Interval, other: Interval) -> bool:
    """Whether two independent rates may be one: the interval of their difference holds 0.

    Newcombe (1998), Statistics in Medicine 17:873, method 10: Wilson limits of each, combined.
    """
    _, low, high = difference_of_shares(one, other)
    return low <= 0 <= high
