import json
import logging
from pathlib import Path
from typing import Any

import pytest

from steer.artifacts.files import write_jsonl
from steer.artifacts.origin import read_provenance
from steer.artifacts.prompts import read_prompts
from steer.config import SetSettings
from steer.errors import SteerError
from steer.grammar import Grammar
from steer.prompts import write_prompts

ROOT = Path(__file__).parents[2]
GRAMMAR, SOURCES = ROOT / "data" / "grammar", ROOT / "data" / "sources.tsv"
ROWS = [{"text": f"Describe item {index}", "category": f"c{index % 3}"} for index in range(30)]


def _write(
    folder: Path, raw: Path | None = None, seed: int = 0, name: str = "own", **settings: Any
) -> list[dict[str, Any]]:
    sizes = {} if {"train", "val", "test"} & settings.keys() else {"train": 6, "val": 4, "test": 5}
    source = {"source": str(raw) if raw else "grammar"} if "source" not in settings else {}
    chosen = SetSettings(**{"label": "harmless", **source, **sizes, **settings})
    out = folder / f"{name}.jsonl"
    write_prompts(name, chosen, seed, GRAMMAR, SOURCES, raw, out)
    assert [prompt.split for prompt in read_prompts(out)] == ["train"] * chosen.train + [
        "val"
    ] * chosen.val + ["test"] * chosen.test
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_categories_are_held_out_of_a_written_set_and_told_by_its_provenance(tmp_path: Path) -> None:
    settings = SetSettings(source="grammar", label="harmful", train=40, val=20, test=60)
    out = tmp_path / "harmful.jsonl"
    write_prompts("harmful", settings, 0, GRAMMAR, SOURCES, None, out, held_out=10)
    split_of = [(prompt.category, prompt.split) for prompt in read_prompts(out)]
    assert len({category for category, split in split_of if split != "test"}) == 5
    assert len({category for category, split in split_of if split == "test"}) > 5
    before = read_provenance(out)["settings"]
    write_prompts("harmful", settings, 0, GRAMMAR, SOURCES, None, out, held_out=9)
    assert read_provenance(out)["settings"] != before
    with pytest.raises(SteerError, match="15 categories are to be held out, and there are 15"):
        write_prompts("harmful", settings, 0, GRAMMAR, SOURCES, None, out, held_out=15)


def _own(folder: Path, rows: list[Any]) -> Path:
    path = folder / "raw.jsonl"
    write_jsonl(path, rows)
    return path


@pytest.mark.parametrize("label", ["harmful", "harmless"])
def test_a_set_of_the_grammar_is_the_same_for_a_seed_and_another_for_another(
    tmp_path: Path, label: str
) -> None:
    first = _write(tmp_path, label=label)
    assert _write(tmp_path, label=label) == first
    assert {row["label"] for row in first} == {label}
    assert {*first[0]} == {"id", "text", "label", "category", "source", "split"}
    assert {row["id"] for row in _write(tmp_path, label=label, seed=1)} != {row["id"] for row in first}


def test_a_set_of_the_users_own_is_drawn_without_regard_to_the_order_of_the_file(tmp_path: Path) -> None:
    first = _write(tmp_path, _own(tmp_path, ROWS))
    assert _write(tmp_path, _own(tmp_path, ROWS[::-1])) == first
    assert {row["text"] for row in first} <= {row["text"] for row in ROWS}
    categories = {row["text"]: row["category"] for row in ROWS}
    assert all(row["category"] == categories[row["text"]] for row in first)
    assert all(row["label"] == "harmless" for row in first)
    others = [
        _write(tmp_path, _own(tmp_path, ROWS), seed=1),
        _write(tmp_path, _own(tmp_path, ROWS), name="b"),
    ]
    assert all([row["id"] for row in other] != [row["id"] for row in first] for other in others)


def test_an_id_depends_on_the_text_alone(tmp_path: Path) -> None:
    ids = {row["text"]: row["id"] for row in _write(tmp_path, _own(tmp_path, ROWS))}
    again = _write(tmp_path, _own(tmp_path, [{"text": text} for text in ids]), seed=5)
    assert {row["text"]: row["id"] for row in again} == ids
    assert {row["category"] for row in again} == {""}


def test_no_prompt_is_in_two_splits(tmp_path: Path) -> None:
    rows = _write(tmp_path, _own(tmp_path, ROWS), train=10, val=10, test=10)
    assert len({row["text"] for row in rows}) == 30


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (ROWS[:14], "set `own`: its source holds 14 different prompts, 15 are asked for"),
        ([], "set `own`: its source holds 0 different prompts"),
        ([*ROWS, {"text": " \n"}], "raw.jsonl, prompt 31: has no text"),
        ([*ROWS, {"prompt": "a"}], "raw.jsonl, prompt 31: has no text"),
        ([*ROWS, {"text": 3}], "raw.jsonl, prompt 31: has no text"),
        ([*ROWS, ROWS[4]], "raw.jsonl, prompt 31"),
        ([*ROWS, {"text": "x", "label": "harmful"}], "raw.jsonl, prompt 31: is labelled 'harmful'"),
    ],
)
def test_a_file_that_can_not_be_used_is_named_with_the_prompt(
    tmp_path: Path, rows: list[dict[str, Any]], said: str
) -> None:
    raw = _own(tmp_path, rows)
    with pytest.raises(SteerError) as caught:
        _write(tmp_path, raw)
    assert said in str(caught.value)
    assert caught.value.next_step
    assert [path.name for path in tmp_path.iterdir()] == ["raw.jsonl"]


def test_a_line_that_is_no_row_is_named(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text('{"text": "a"}\n{"text"\n')
    with pytest.raises(SteerError, match=r"raw\.jsonl, line 2: is not JSON"):
        _write(tmp_path, raw)


def test_a_set_without_a_size_or_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="set `own`: has no prompts: train, val and test are 0"):
        _write(tmp_path, train=0)
    with pytest.raises(SteerError, match="set `own`: its file is not given"):
        _write(tmp_path, source="advbench")
    with pytest.raises(SteerError, match=r"raw\.jsonl: no such file"):
        _write(tmp_path, tmp_path / "raw.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_published_set_is_read_by_its_row_and_its_repetitions_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = tmp_path / "arditi-alpaca"
    records = [{"instruction": f"Name {index % 20}", "category": None} for index in range(25)]
    raw.write_text(json.dumps(records))
    with caplog.at_level(logging.INFO):
        rows = _write(tmp_path, raw, source="arditi-alpaca", train=0, val=0, test=20)
    assert {row["text"] for row in rows} == {f"Name {index}" for index in range(20)}
    assert {row["source"] for row in rows} == {"arditi-alpaca"}
    assert "own: 20 prompts, train 0, val 0, test 20" in caplog.text


def test_both_sides_of_pairs_hold_the_same_prompts_with_another_reply(tmp_path: Path) -> None:
    plain = _write(tmp_path, label="harmful")
    refusing = _write(tmp_path, label="harmful", target="refusal", name="refusing")
    complying = _write(tmp_path, label="harmful", target="compliance", name="complying")
    grammar = Grammar.load(GRAMMAR)
    for prompt, refused, complied in zip(plain, refusing, complying, strict=True):
        assert prompt["text"] == refused["text"] == complied["text"]
        assert prompt["split"] == refused["split"] == complied["split"]
        assert refused["pair"] == complied["pair"] == prompt["id"]
        assert grammar.parse_reply(prompt["text"], refused["target"]).verdict == "refusal"
        assert grammar.parse_reply(prompt["text"], complied["target"]).verdict == "full_response"
    assert not {row["id"] for row in refusing} & {row["id"] for row in [*complying, *plain]}


def _pairs(side: str) -> list[dict[str, Any]]:
    return [{**row, "pair": f"p{n}", "target": f"{side} {n}"} for n, row in enumerate(ROWS)]


def test_files_of_pairs_are_split_alike_whatever_their_sets_are_called(tmp_path: Path) -> None:
    first = _write(tmp_path, _own(tmp_path, _pairs("no")), target="reply", name="a")
    second = _write(tmp_path, _own(tmp_path, _pairs("yes")), target="reply", name="b")
    assert [(row["pair"], row["split"]) for row in first] == [(row["pair"], row["split"]) for row in second]
    assert all(row["target"].startswith("no ") and row["target_in"] == "reply" for row in first)
    # One prompt with two targets is two pairs; the same target once more is a repetition.
    twice = [*_pairs("no"), {**_pairs("yes")[0], "pair": "more"}]
    assert len(_write(tmp_path, _own(tmp_path, twice), target="reply", train=31)) == 31
    with pytest.raises(SteerError, match="prompt 31: repeats prompt 1"):
        _write(tmp_path, _own(tmp_path, [*_pairs("no"), _pairs("no")[0]]), target="reply")


@pytest.mark.parametrize(
    ("changes", "target", "message"),
    [
        ({"pair": None}, "reply", "prompt 1: has no `pair`"),
        ({"target": " "}, "reply", "prompt 1: has no `target`"),
        ({"target": "elsewhere"}, "prompt", r"prompt 1 \(pair `p0`\): its target is not in its text"),
    ],
)
def test_a_line_of_a_paired_file_without_its_pair_or_target_is_an_error(
    tmp_path: Path, changes: dict[str, Any], target: str, message: str
) -> None:
    rows = _pairs("no")
    rows[0] = {**rows[0], **changes}
    with pytest.raises(SteerError, match=message):
        _write(tmp_path, _own(tmp_path, rows), target=target)


def test_a_target_that_the_source_does_not_have_is_an_error() -> None:
    with pytest.raises(
        ValueError, match="`target: reply` is not for source `grammar`; use refusal or compliance"
    ):
        SetSettings(source="grammar", label="harmful", target="reply")
