import json
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
    assert read_prompts(path) == [Prompt(key, ROW["text"], "harmless", "val", "food") for key in "ba"]


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
