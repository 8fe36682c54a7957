"""Files of records as others publish them: one reader for each format."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import yaml

from steer.artifacts.files import Row
from steer.errors import SteerError
from steer.literals import literal

Format = Literal["json", "jsonl", "csv", "tsv", "yaml", "txt", "parquet", "python"]
BATCH = 1024


def records(path: Path, kind: Format, key: str = "") -> Iterator[Row]:
    """The records of a file, in its order; a line of `txt` is a record of the one column ``.

    Args:
        path: the file.
        kind: its format.
        key: what the list of records stands under, in `json` and `yaml`, steps between periods; empty for
            the file itself, a period for a file that is one record. In `python`, the name of a value. A text
            is a record of the one column `value`.

    Raises:
        SteerError: the file is not UTF-8, not of the format, or holds no list of records. Nothing of it is
            quoted: it may hold harmful requests.
    """
    # A reader of rows fails in the midst of the file.
    try:
        yield from _READERS[kind](path, key)
    except UnicodeDecodeError as error:
        cause = f"is not UTF-8 text (byte {error.start} of it or of a part)"
        raise SteerError(str(path), cause, "convert the file to UTF-8") from error
    except (ValueError, KeyError, TypeError, OSError, csv.Error, yaml.YAMLError, RecursionError) as error:
        cause = f"is not {kind} as the table says ({type(error).__name__})"
        raise SteerError(str(path), cause, "remove the file and run again to fetch it anew") from error


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig")


def _listed(value: Any, key: str) -> list[Row]:
    for step in key.split(".") if key.strip(".") else []:
        value = value[step]
    found = [value] if key == "." else value
    if isinstance(found, list):
        found = [{"value": one} if isinstance(one, str) else one for one in found]
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        raise TypeError("not a list of records")
    return found


def _json(path: Path, key: str) -> list[Row]:
    return _listed(json.loads(_text(path)), key)


def _yaml(path: Path, key: str) -> list[Row]:
    return _listed(yaml.safe_load(_text(path)), key)


def _jsonl(path: Path, key: str) -> Iterator[Row]:
    del key
    with path.open(encoding="utf-8-sig") as stream:
        for line in stream:
            if line.strip():
                (row,) = _listed([json.loads(line)], "")
                yield row


def _separated(delimiter: str) -> Callable[[Path, str], Iterator[Row]]:
    def read(path: Path, key: str) -> Iterator[Row]:
        del key
        with path.open(encoding="utf-8-sig", newline="") as stream:
            yield from csv.DictReader(stream, delimiter=delimiter, strict=True)

    return read


def _txt(path: Path, key: str) -> Iterator[Row]:
    del key
    # Lines end at line feeds alone: other separators may stand inside a prompt.
    yield from ({"": line} for line in _text(path).split("\n") if line.strip())


def _python(path: Path, key: str) -> list[Row]:
    value = literal(_text(path), key)
    if isinstance(value, dict):
        return [{"name": name, "value": held} for name, held in value.items()]
    return _listed(value if isinstance(value, list) else [value], "")


def _parquet(path: Path, key: str) -> Iterator[Row]:
    del key
    # Needed for this format alone, and slow to import.
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH):
            yield from batch.to_pylist()


_READERS: dict[Format, Callable[[Path, str], "list[Row] | Iterator[Row]"]] = {
    "json": _json,
    "jsonl": _jsonl,
    "csv": _separated(","),
    "tsv": _separated("\t"),
    "yaml": _yaml,
    "txt": _txt,
    "parquet": _parquet,
    "python": _python,
}
