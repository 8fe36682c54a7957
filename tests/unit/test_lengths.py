import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from steer.artifacts.files import write_jsonl
from steer.judges.verdicts import UNSCORED, Exchange, Judgement
from steer.lengths import write_lengths
from steer.rates import Method
from steer.stats import wilson
from steer.texts import cut


class Endings:
    """Says that a reply is a full response if it ends in a full stop, and nothing of one that is blank."""

    version = "endings"

    def __init__(self) -> None:
        self.asked: list[Exchange] = []

    def judge(self, exchanges: Sequence[Exchange]) -> list[Judgement]:
        self.asked += exchanges
        return [
            Judgement(
                UNSCORED if "?" in one.reply else "full_response" if one.reply.endswith(".") else "refusal",
                "",
                self.version,
            )
            for one in exchanges
        ]


def _answered(folder: Path) -> dict[Path, Path]:
    rng, found = random.Random(0), {}
    for name in ("one", "two"):
        prompts = [
            {"id": f"{name}{at}", "text": f"Prompt {name} {at}", "label": "harmful", "split": "test"}
            for at in range(10)
        ]
        replies = [
            {
                "arm": arm,
                "prompt_id": row["id"],
                "text": " ".join(["word."[: rng.choice((4, 5))]] * rng.randint(1, 9)),
            }
            for row in prompts
            for arm in ("baseline", "add")
        ]
        replies[0]["text"] = "What? one two three four"
        write_jsonl(folder / f"{name}.prompts.jsonl", prompts)
        write_jsonl(folder / f"{name}.jsonl", replies)
        found[folder / f"{name}.jsonl"] = folder / f"{name}.prompts.jsonl"
    return found


def _rows(folder: Path, count: int = 100) -> tuple[list[dict[str, Any]], Endings]:
    judge, out = Endings(), folder / "lengths.csv"
    write_lengths(_answered(folder), {"endings": judge}, (2, 3), count, out, Method(), lambda _: None)
    with out.open() as stream:
        return list(csv.DictReader(stream)), judge


def test_verdicts_on_cut_replies_are_held_against_those_on_the_whole_ones(tmp_path: Path) -> None:
    rows, judge = _rows(tmp_path)
    whole = {one for one in judge.asked if one.reply}
    assert len(judge.asked) == len(set(judge.asked)) == len(whole)
    drawn = {
        Exchange(f"Prompt {row['prompt_id'][:3]} {row['prompt_id'][3:]}", row["text"])
        for path in _answered(tmp_path)
        for row in map(json.loads, path.read_text().splitlines())
    }
    for row in rows:
        length = int(row["length"])
        pairs = [(one.reply, cut(one.reply, length)) for one in drawn]
        changed = [pair for pair in pairs if pair[0] != pair[1]]
        scored = [pair for pair in changed if "?" not in pair[0] + pair[1]]
        same = sum(one.endswith(".") == other.endswith(".") for one, other in scored)
        assert (int(row["replies"]), int(row["shortened"])) == (len(drawn), len(changed))
        assert int(row["scored"]) == len(scored) < len(changed)
        found = [float(row[name]) for name in ("same", "same_low", "same_high")]
        assert found == pytest.approx([*wilson(same, len(scored))])
        moved = sum(one.endswith(".") and not other.endswith(".") for one, other in scored)
        assert int(row["full_response_now_refusal"]) == moved


def test_of_sampled_replies_the_first_alone_are_looked_at(tmp_path: Path) -> None:
    greedy, _ = _rows(tmp_path)
    answered = _answered(tmp_path)
    for path in answered:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        more = [{**row, "sample": 1, "text": f"other words of {at}"} for at, row in enumerate(rows)]
        write_jsonl(path, [{**row, "sample": 0} for row in rows] + more)
    out = tmp_path / "sampled.csv"
    write_lengths(answered, {"endings": Endings()}, (2, 3), 100, out, Method(), lambda _: None)
    with out.open() as stream:
        assert list(csv.DictReader(stream)) == greedy


def test_only_so_many_replies_are_looked_at_and_always_the_same(tmp_path: Path) -> None:
    (first, judge), (second, again) = _rows(tmp_path, 5), _rows(tmp_path, 5)
    assert first == second
    assert judge.asked == again.asked
    assert {row["replies"] for row in first} == {"5"}
