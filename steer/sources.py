"""Public prompt sets: the table that pins them, and the readers of the formats they come in."""

import csv
import difflib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from steer.artifacts.files import Row, iter_jsonl
from steer.errors import SteerError

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Source(BaseModel):
    """One row of the table: where a prompt set comes from, and which bytes it must be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="What a set's `source` says.")
    origin: Literal["https", "pypi"] = Field(description="A file behind a URL, or one inside a wheel.")
    location: str = Field(min_length=1, description="The URL, or the package's name.")
    member: str = Field(description="Path inside the wheel; empty for a URL.")
    revision: str = Field(min_length=1, description="Commit that the URL names, or the package's version.")
    archive_sha256: Sha256 | Literal[""] = Field(description="Of the wheel; empty for a URL.")
    sha256: Sha256 = Field(description="Of the file itself.")
    bytes: int = Field(gt=0, description="Size of the file.")
    licence: str = Field(min_length=1, description="SPDX identifiers, as far as they are known.")
    format: Literal["pyrit-yaml", "json", "jsonl", "csv", "txt"] = Field(description="How to read it.")
    text: str = Field(description="Column of the prompt; empty where a line is a prompt.")
    category: str = Field(description="Column of the harm category; empty where there is none.")
    gated: Literal["yes", "no"] = Field(description="Whether its terms must be accepted by a person first.")
    about: str = Field(min_length=1, description="What it is, and the paper it is from.")

    @model_validator(mode="after")
    def _origin_is_pinned(self) -> "Source":
        if self.origin == "pypi" and not (self.member and self.archive_sha256):
            raise ValueError("a file inside a wheel needs `member` and `archive_sha256`")
        if self.origin == "https":
            if not is_allowed_url(self.location):
                raise ValueError(f"`location` is not an https URL: {self.location}")
            if self.revision not in self.location:
                raise ValueError(f"the URL does not name the revision {self.revision}")
        if self.format != "txt" and not self.text:
            raise ValueError(f"the format {self.format} needs the column of the prompt, `text`")
        return self

    @property
    def address(self) -> str:
        """Where the file is, in words for a message."""
        if self.origin == "https":
            return self.location
        return f"{self.member} in {self.location} {self.revision} from the package index"


def is_allowed_url(url: str) -> bool:
    """Whether a URL is https; plain http is for a server on this machine only, as tests use it."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)


def read_sources(table: Path) -> dict[str, Source]:
    """All rows of the table, by name.

    Raises:
        SteerError: the table is missing, or a row is malformed or doubled (named by its line).
    """
    if not table.is_file():
        raise SteerError(str(table), "no such file", "run from the project's folder, or restore the file")
    found: dict[str, Source] = {}
    with table.open(encoding="utf-8", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream, delimiter="\t"), 2):
            source = _parse(row, f"{table}, line {number}")
            if source.name in found:
                raise SteerError(f"{table}, line {number}", f"`{source.name}` is there twice", "remove one")
            found[source.name] = source
    return found


def _parse(row: dict[str, Any], where: str) -> Source:
    try:
        return Source.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "row"
        raise SteerError(where, f"`{key}`: {first['msg']}", "mend the row") from error


def find_source(name: str, table: Path) -> Source:
    """The row of a name.

    Raises:
        SteerError: there is none; the nearest known name is given.
    """
    sources = read_sources(table)
    if name not in sources:
        near = difflib.get_close_matches(name, sources, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(sorted(sources))}"
        raise SteerError(f"source `{name}`", f"is not in {table}", hint)
    return sources[name]


def read_source(path: Path, source: Source) -> Iterator[Row]:
    """The prompts of a fetched file, as rows of `text` and `category` (empty where the file has none).

    Messages name rows by number and never quote them: the prompts are harmful requests.

    Raises:
        SteerError: the file is missing, is not of the format, or a row has no prompt.
    """
    if not path.is_file():
        raise SteerError(str(path), "no such file", f"run the download of `{source.name}` first")
    try:
        records = list(_READERS[source.format](path))
    except (ValueError, KeyError, TypeError, csv.Error, yaml.YAMLError) as error:
        cause = f"is not {source.format} as the table says ({type(error).__name__})"
        raise SteerError(str(path), cause, "remove the file and run again to fetch it anew") from error
    for number, record in enumerate(records, 1):
        yield {
            "text": _text(record, source, f"{path}, prompt {number}"),
            "category": _category(record, source),
        }


def _text(record: Row, source: Source, where: str) -> str:
    text = record.get(source.text)
    if not isinstance(text, str) or not text.strip():
        cause = f"has no text in `{source.text}` (it has {', '.join(sorted(map(str, record)))})"
        raise SteerError(where, cause, f"correct `text` of `{source.name}` in the table of sources")
    return text.strip()


def _category(record: Row, source: Source) -> str:
    """The category; the first of a list, which is the main one."""
    value = record.get(source.category) if source.category else None
    if isinstance(value, list):
        value = value[0] if value else None
    return "" if value is None else str(value).strip()


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig")


def _json_records(path: Path) -> list[Row]:
    return _records(json.loads(_read_text(path)))


def _pyrit_records(path: Path) -> list[Row]:
    return _records(yaml.safe_load(_read_text(path))["seeds"])


def _records(value: Any) -> list[Row]:
    if not isinstance(value, list) or not all(isinstance(record, dict) for record in value):
        raise TypeError("not a list of records")
    return value


def _csv_records(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream, strict=True))


def _txt_records(path: Path) -> list[Row]:
    return [{"": line} for line in _read_text(path).splitlines() if line.strip()]


_READERS: dict[str, Callable[[Path], "list[Row] | Iterator[Row]"]] = {
    "json": _json_records,
    "jsonl": iter_jsonl,
    "csv": _csv_records,
    "txt": _txt_records,
    "pyrit-yaml": _pyrit_records,
}
