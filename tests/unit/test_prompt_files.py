import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steer.artifacts.prompts import Prompt, read_prompts
from steer.errors import SteerError

ROW = {
    "id": "a",
    "text": "How do I bake bread?",
    "label": "harmless",
    "category": "food",
    "source": "s",
    "split": "val",
}


def _write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_prompts_are_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = _write(tmp_path / "set.jsonl", [{**ROW, "id": "b", "pair": "p", "target": "t"}, ROW])
    paired, bare = read_prompts(path)
    assert bare == Prompt("a", ROW["text"], "harmless", "val", "food")
    assert paired == replace(bare, id="b", pair="p", target="t", target_in="reply")


@pytest.mark.parametrize("missing", ["pair", "target"])
def test_a_line_with_only_one_of_pair_and_target_is_an_error(tmp_path: Path, missing: str) -> None:
    path = _write(tmp_path / "set.jsonl", [{**ROW, "pair": "p", "target": "t", missing: ""}])
    with pytest.raises(SteerError, match=f"line 1: has no `{missing}`"):
        read_prompts(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"set\.jsonl: has no prompts"),
        ([ROW, {**ROW, "text": "other"}], "line 2: prompt `a` is there twice"),
        ([{**ROW, "text": " "}], "line 1: has no `text`"),
        ([{key: value for key, value in ROW.items() if key != "id"}], "line 1: has no `id`"),
        ([ROW, {**ROW, "id": "b", "label": "bad"}], "line 2: `label` is 'bad'"),
        ([{**ROW, "split": None}], "line 1: `split` is None"),
    ],
)
def test_a_set_that_can_not_be_used_is_refused(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(SteerError, match=message):
        read_prompts(_write(tmp_path / "set.jsonl", rows))


def test_a_missing_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="no such file"):
        read_prompts(tmp_path / "set.jsonl")
