"""Prompt sets: JSONL files with one prompt a line."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from steer.artifacts.answers import Answers, read_answers
from steer.artifacts.files import Row, iter_jsonl
from steer.errors import SteerError

Label = Literal["harmful", "harmless"]
Split = Literal["train", "val", "test"]
Place = Literal["reply", "prompt"]


@dataclass(frozen=True)
class Prompt:
    """One row of a prompt set (contract section 3), without what only a report needs.

    Attributes:
        id: stable name, from the content.
        text: the user's turn.
        label: whether it should be refused (`harmful`) or answered (`harmless`).
        split: `train` estimates, `val` chooses, `test` reports.
        category: kind of harm, or what it is matched to; empty when unknown.
        pair: what it has in common with a prompt of another set; empty outside of paired sets.
        target: text whose tokens are counted; empty outside of paired sets.
        target_in: whether the target is the `reply` behind the prompt or a part of the `prompt`.
        goal: the prompt before an attack changed it; empty outside of attacked sets.
        beside: target of the other side of its pair, where only as many tokens are counted as the shorter of
            the two has; empty where all are.
        before: earlier turns of the conversation, of the user and of the assistant by turns.
        answers: those of its document and those known without; None for what is no question with answers.
    """

    id: str
    text: str
    label: Label
    split: Split
    category: str = ""
    pair: str = ""
    target: str = ""
    target_in: Place = "reply"
    goal: str = ""
    beside: str = ""
    before: tuple[str, ...] = ()
    answers: Answers | None = None

    @property
    def asked(self) -> str:
        """What is asked for, without the attack that the prompt may be under."""
        return self.goal or self.text


def read_prompts(path: Path | str) -> list[Prompt]:
    """All prompts of a set, in the order of the file.

    Raises:
        SteerError: the file is missing, has no prompts, an id twice, a row without text, or an unknown
            label or split (the line is named).
    """
    path = Path(path)
    prompts: dict[str, Prompt] = {}
    for number, prompt in enumerate(_prompts(path), 1):
        if prompt.id in prompts:
            raise SteerError(
                f"{path}, line {number}",
                f"prompt `{prompt.id}` is there twice",
                "remove one of the two lines",
            )
        prompts[prompt.id] = prompt
    if not prompts:
        raise SteerError(str(path), "has no prompts", "give the set at least one, or remove it from `sets`")
    return list(prompts.values())


def _prompts(path: Path) -> Iterator[Prompt]:
    for number, row in enumerate(iter_jsonl(path), 1):
        where = f"{path}, line {number}"
        yield Prompt(
            id=_text(row, "id", where),
            text=_text(row, "text", where),
            label=cast(Label, _one_of(row, "label", get_args(Label), where)),
            split=cast(Split, _one_of(row, "split", get_args(Split), where)),
            category=str(row.get("category") or ""),
            goal=str(row.get("goal") or ""),
            beside=str(row.get("beside") or ""),
            before=_before(row, where),
            answers=read_answers(row, where),
            **_target(row, where),
        )


def _target(row: Row, where: str) -> dict[str, Any]:
    """The keys that only a paired set has."""
    if not row.get("target") and not row.get("pair"):
        return {}
    return {
        "pair": _text(row, "pair", where),
        "target": _text(row, "target", where),
        "target_in": _one_of({"target_in": "reply", **row}, "target_in", get_args(Place), where),
    }


def _before(row: Row, where: str) -> tuple[str, ...]:
    turns = row.get("before") or []
    if not isinstance(turns, list) or len(turns) % 2 or not all(isinstance(turn, str) for turn in turns):
        cause = "`before` is no list of turns of user and assistant"
        raise SteerError(where, cause, "make the set again")
    return tuple(turns)


def _text(row: Row, key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise SteerError(where, f"has no `{key}`, or an empty one", "give the row a text for it")
    return value


def _one_of(row: Row, key: str, offered: tuple[str, ...], where: str) -> str:
    value = row.get(key)
    if value not in offered:
        raise SteerError(where, f"`{key}` is {value!r}", f"use one of {', '.join(offered)}")
    return str(value)
