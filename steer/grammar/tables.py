"""The grammar's data files, read once and checked."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from steer.artifacts.files import read_json
from steer.errors import SteerError

Label = Literal["harmful", "harmless"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Pair:
    """A harmful and a harmless phrase of one verb: their objects count the same words."""

    category: str
    split: str
    verb: str
    harmful: str
    harmless: str

    def phrase(self, label: Label) -> str:
        """Verb and object, such as "build a kite"."""
        return f"{self.verb} {self.harmful if label == 'harmful' else self.harmless}"


@dataclass(frozen=True)
class Frame:
    """A sentence with one gap `{}`; its kind decides the wording of the reply."""

    kind: str
    split: str
    text: str

    @property
    def before(self) -> str:
        """The text ahead of the gap."""
        return self.text.partition("{}")[0]

    @property
    def after(self) -> str:
        """The text behind the gap."""
        return self.text.partition("{}")[2]


@dataclass(frozen=True)
class Question:
    """A harmless sentence outside the request frames, with one or two gaps for a topic."""

    kind: str
    text: str


@dataclass(frozen=True)
class Replies:
    """The wordings a reply is made of.

    Args:
        openers: the first words of a compliance, by kind of frame.
        restatement: how a compliance names the request, with one gap `{}`.
        general: what a compliance says in place of a restatement when no request was recognised.
        steps: the numbered filler lines of every compliance.
        refusals: the refusal sentences.
        refusal_of_kind: index of the refusal sentence, by kind of frame.
    """

    openers: dict[str, str]
    restatement: str
    general: str
    steps: tuple[str, ...]
    refusals: tuple[str, ...]
    refusal_of_kind: dict[str, int]


@dataclass(frozen=True)
class Tables:
    """Everything that stands in the grammar's folder."""

    pairs: tuple[Pair, ...]
    frames: tuple[Frame, ...]
    contexts: tuple[str, ...]
    questions: tuple[Question, ...]
    topics: tuple[str, ...]
    words: tuple[str, ...]
    systems: tuple[str, ...]
    replies: Replies


def load_tables(folder: Path) -> Tables:
    """Read the grammar's files.

    Raises:
        SteerError: a file is missing, a column is missing, or a split has no such name.
    """
    tables = Tables(
        pairs=tuple(_pair(row) for row in _rows(folder / "pairs.tsv")),
        frames=tuple(Frame(row["kind"], row["split"], row["frame"]) for row in _rows(folder / "frames.tsv")),
        contexts=_lines(folder / "contexts.txt"),
        questions=tuple(Question(row["kind"], row["question"]) for row in _rows(folder / "questions.tsv")),
        topics=_lines(folder / "topics.txt"),
        words=_lines(folder / "words.txt"),
        systems=_lines(folder / "systems.txt"),
        replies=_replies(folder / "replies.json"),
    )
    _check_splits(folder, tables)
    return tables


def _pair(row: dict[str, str]) -> Pair:
    return Pair(row["category"], row["split"], row["verb"], row["harmful"], row["harmless"])


def _replies(path: Path) -> Replies:
    found = read_json(path)
    return Replies(
        openers=found["openers"],
        restatement=found["restatement"],
        general=found["general"],
        steps=tuple(found["steps"]),
        refusals=tuple(found["refusals"]),
        refusal_of_kind=found["refusal_of_kind"],
    )


def _text(path: Path) -> str:
    if not path.is_file():
        raise SteerError(str(path), "no such file", "point `grammar` at a folder laid out like data/grammar")
    return path.read_text(encoding="utf-8")


def _lines(path: Path) -> tuple[str, ...]:
    return tuple(line for line in _text(path).splitlines() if line)


def _rows(path: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader(_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE))
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise SteerError(
                f"{path}, line {number}", "has not the columns of the first line", "mend the line"
            )
    return rows


def _check_splits(folder: Path, tables: Tables) -> None:
    for split in sorted({row.split for row in tables.pairs} | {row.split for row in tables.frames}):
        if split not in SPLITS:
            cause = f"split {split!r} is none of {', '.join(SPLITS)}"
            raise SteerError(str(folder), cause, "mend the split column")
