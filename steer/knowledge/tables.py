"""The data files of the grammar of facts, read once and checked."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from steer.artifacts.files import read_json
from steer.errors import SteerError

FrameKind = Literal["question", "document", "hearsay"]
FrameSplit = Literal["train", "test"]


@dataclass(frozen=True)
class Frame:
    """A sentence with gaps: for relation and place in a question, for a list and the place in a document."""

    kind: FrameKind
    split: FrameSplit
    text: str


@dataclass(frozen=True)
class Tables:
    """Everything that stands in the folder.

    Attributes:
        places: invented places.
        relations: what a place has, each with the values that it may have.
        frames: sentences of questions, of documents, and of hearsay.
        answer: a reply with an answer, with the gap `{}`.
        abstention: the reply that no answer is there.
        listing: a question for everything that a document says, with the gap `{place}`; only trained on.
    """

    places: tuple[str, ...]
    relations: dict[str, tuple[str, ...]]
    frames: tuple[Frame, ...]
    answer: str
    abstention: str
    listing: str


def load_tables(folder: Path) -> Tables:
    """Read the files of the grammar of facts.

    Raises:
        SteerError: a file or a column is missing, a frame has no such gaps, or a value is of two relations.
    """
    replies = read_json(folder / "replies.json")
    relations = {row["relation"]: tuple(row["values"].split()) for row in _rows(folder / "relations.tsv")}
    tables = Tables(
        places=tuple(_text(folder / "places.txt").split()),
        relations=relations,
        frames=tuple(_frame(row, folder) for row in _rows(folder / "frames.tsv")),
        answer=replies["answer"],
        abstention=replies["abstention"],
        listing=replies["listing"],
    )
    values = [value for each in relations.values() for value in each]
    if len(values) != len({*values}):
        raise SteerError(str(folder / "relations.tsv"), "has a value twice", "let each mean one thing")
    return tables


def _frame(row: dict[str, str], folder: Path) -> Frame:
    gaps = ("{relation}", "{place}") if row["kind"] == "question" else ("{list}", "{place}")
    if any(row["frame"].count(gap) != 1 for gap in gaps):
        raise SteerError(
            str(folder / "frames.tsv"), f"`{row['frame']}` has not the gaps {' and '.join(gaps)}", "mend it"
        )
    return Frame(cast(FrameKind, row["kind"]), cast(FrameSplit, row["split"]), row["frame"])


def _text(path: Path) -> str:
    if not path.is_file():
        raise SteerError(str(path), "no such file", "restore the folder data/knowledge")
    return path.read_text(encoding="utf-8")


def _rows(path: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader(_text(path).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise SteerError(f"{path}, line {number}", "has not the columns of the first line", "mend it")
    return rows
