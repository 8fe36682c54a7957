"""Replies and their verdicts: the rows of `generation/<set>.jsonl` and `judging/<set>.<judge>.jsonl`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from steer.artifacts.files import Row, iter_jsonl
from steer.errors import SteerError
from steer.judges.verdicts import Verdict


class Key(NamedTuple):
    """What a reply and its verdicts are known by; a greedy reply is the sample 0, and the only one."""

    arm: str
    prompt_id: str
    sample: int = 0


@dataclass(frozen=True)
class Reply:
    """A row of a generation file, as far as judging and scoring need it.

    Attributes:
        arm: the intervention.
        prompt_id: the prompt, by its name in the set.
        text: the reply, without reasoning.
        first_token_refusal_score: log-odds, in nats.
        first_token_kl: KL of the first token's distribution from the unsteered one, in nats.
        fired_tokens: tokens that the arm edited.
        fired_relative_norm: norm of the edit, relative to what it edits.
        fired_leaked: choices of experts that the arm deactivates or masks.
        fired_blocked: experts that the arm activates, that a token could have had and did not get.
        sample: the sampling seed; None for a greedy reply.
    """

    arm: str
    prompt_id: str
    text: str
    first_token_refusal_score: float | None
    first_token_kl: float | None
    fired_tokens: float | None
    fired_relative_norm: float | None
    fired_leaked: float | None
    fired_blocked: float | None
    sample: int | None = None

    @property
    def key(self) -> Key:
        """What it is known by."""
        return Key(self.arm, self.prompt_id, self.sample or 0)

    @property
    def place(self) -> Row:
        """What it is known by, as its rows hold it."""
        drawn = {} if self.sample is None else {"sample": self.sample}
        return {"arm": self.arm, "prompt_id": self.prompt_id, **drawn}


@dataclass(frozen=True)
class JudgedReply:
    """A row of a judging file, as far as scoring needs it."""

    verdict: Verdict
    raw: dict[str, Any]


def iter_replies(path: Path | str) -> Iterator[Reply]:
    """Read a generation file, streaming.

    Raises:
        SteerError: the file holds no reply, a reply twice, or a row without a field (named by its line).
    """
    seen: set[Key] = set()
    for number, row in enumerate(iter_jsonl(path), 1):
        where = f"{path}, line {number}"
        reply = _reply(row, where)
        if reply.key in seen:
            raise SteerError(where, f"{_named(reply.key)} is there twice", "generate the set again")
        seen.add(reply.key)
        yield reply
    if not seen:
        raise SteerError(str(path), "holds no reply", "generate the set again")


def _reply(row: Row, where: str) -> Reply:
    fired = row.get("fired")
    fired = fired if isinstance(fired, Mapping) else {}
    return Reply(
        arm=_text(row, "arm", where),
        prompt_id=_text(row, "prompt_id", where),
        text=_text(row, "text", where),
        first_token_refusal_score=_number(row, "first_token_refusal_score", where),
        first_token_kl=_number(row, "first_token_kl", where),
        fired_tokens=_number(fired, "tokens", where),
        fired_relative_norm=_number(fired, "relative_norm", where),
        fired_leaked=_number(fired, "leaked", where),
        fired_blocked=_number(fired, "blocked", where),
        sample=_sample(row, where),
    )


def _text(row: Row, name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise SteerError(where, f"has no text under `{name}`", "make the file again")
    return value


def _number(row: Mapping[str, Any], name: str, where: str) -> float | None:
    value = row.get(name)
    if value is not None and not isinstance(value, int | float):
        raise SteerError(where, f"`{name}` is {value!r}, not a number", "make the file again")
    return None if value is None else float(value)


def _sample(row: Mapping[str, Any], where: str) -> int | None:
    value = row.get("sample")
    if value is not None and not isinstance(value, int):
        raise SteerError(where, f"`sample` is {value!r}, not a whole number", "make the file again")
    return value


def _named(key: Key) -> str:
    sample = f", sample {key.sample}" if key.sample else ""
    return f"the reply of arm `{key.arm}` to prompt `{key.prompt_id}`{sample}"


def read_verdicts(path: Path | str, expected: Mapping[Key, Any]) -> dict[Key, JudgedReply]:
    """Read a judging file that holds one verdict for each of the `expected` replies and no other.

    Raises:
        SteerError: a verdict is unknown, a reply is judged twice, or the file and the replies don't
            match (the first row in question is named).
    """
    found: dict[Key, JudgedReply] = {}
    again = "judge the set again"
    for number, row in enumerate(iter_jsonl(path), 1):
        where = f"{path}, line {number}"
        key = Key(_text(row, "arm", where), _text(row, "prompt_id", where), _sample(row, where) or 0)
        if key in found:
            raise SteerError(where, f"{_named(key)} is judged twice", again)
        if key not in expected:
            raise SteerError(where, f"{_named(key)} is not among the generated ones", again)
        if row.get("verdict") not in get_args(Verdict):
            raise SteerError(where, f"verdict {row.get('verdict')!r} is unknown", again)
        raw = row.get("raw")
        found[key] = JudgedReply(cast(Verdict, row["verdict"]), raw if isinstance(raw, dict) else {})
    for key in expected:
        if key not in found:
            raise SteerError(str(path), f"{_named(key)} is not judged", again)
    return found
