"""Reading what figures draw, with an error that names what is missing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas import DataFrame

from steer.artifacts.files import Row, read_json
from steer.errors import SteerError

Inputs = Mapping[str, Sequence[Path]]
Settings = Mapping[str, Any]


def read_table(path: Path, columns: Sequence[str], *, empty: bool = False) -> DataFrame:
    """A CSV table that has `columns` and at least one row, or, if it may be `empty`, none.

    Raises:
        SteerError: the file is missing, lacks a column or holds no row.
    """
    if not path.is_file():
        raise SteerError(str(path), "no such file", "run the stage that makes it first")
    try:
        table = pd.read_csv(path)
    except pd.errors.EmptyDataError as error:
        raise SteerError(str(path), "is empty", "remove it and run again to rebuild it") from error
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise SteerError(str(path), f"has no column {', '.join(missing)}", "rebuild it with this version")
    if table.empty and not empty:
        raise SteerError(str(path), "has no row", "run the stage that makes it again")
    return table


def records(table: DataFrame) -> list[Row]:
    """The rows of a table, each by the names of its columns."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict(orient="records")]


def read_choice(path: Path) -> tuple[int, int]:
    """(layer, position) that a selection method chose; position counts from the end, -1 last.

    Raises:
        SteerError: the file is missing or names no choice.
    """
    record = read_json(path)
    try:
        choice = record["choice"]
        return int(choice["layer"]), int(choice["position"])
    except (KeyError, TypeError) as error:
        raise SteerError(
            str(path), "names no choice", "look at the table beside it for the reasons"
        ) from error
