"""Tables that stages read back."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from steer.artifacts.files import Row
from steer.errors import SteerError

RowModel = TypeVar("RowModel", bound=BaseModel)


def read_named_rows(path: Path, kind: type[RowModel]) -> dict[str, RowModel]:
    """The rows of a YAML table of the project, by name.

    Raises:
        SteerError: the table is missing, or a row is malformed.
    """
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {name: kind.model_validate(row) for name, row in rows.items()}
    except FileNotFoundError as error:
        raise SteerError(str(path), "no such file", "restore it") from error
    except (yaml.YAMLError, ValidationError, AttributeError) as error:
        raise SteerError(str(path), f"holds a malformed row ({error})", "mend the row") from error


def read_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of a CSV table that has `columns`, as texts.

    Raises:
        SteerError: the file is missing, lacks a column or holds no row.
    """
    if not path.is_file():
        raise SteerError(str(path), "no such file", "run the stage that makes it first")
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise SteerError(str(path), f"has no column {', '.join(missing)}", "rebuild it with this version")
        rows = list(reader)
    if not rows:
        raise SteerError(str(path), "has no row", "remove it and run the stage that makes it again")
    return rows
