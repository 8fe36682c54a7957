import csv
import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from steer.artifacts.files import write_jsonl
from steer.artifacts.origin import read_provenance
from steer.config import OverlapSettings, SetSettings
from steer.drawing import Given
from steer.errors import SteerError
from steer.overlap import duplicates, normalised
from steer.overlapping import write_overlap
from steer.prompts import write_prompts

WORDS = ("river", "lantern", "copper", "violin", "harvest", "glacier", "pepper", "saddle", "orchid", "marble")
SETTINGS = OverlapSettings()


def _texts(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [f"Tell me of the {' '.join(rng.permutation(WORDS)[:5])}, please" for _ in range(count)]


def _jaccard(one: str, other: str, size: int) -> float:
    """Slow and plain: both sets of pieces written out."""
    sides = []
    for text in (one, other):
        kept = "".join(mark.lower() if mark.isalnum() else " " for mark in text).split()
        line = " ".join(kept)
        sides.append({line[at : at + size] for at in range(len(line)) if len(line[at : at + size]) == size})
    return len(sides[0] & sides[1]) / len(sides[0] | sides[1])


@pytest.mark.parametrize("threshold", [0.3, 0.6])
def test_the_nearest_text_is_the_one_that_a_plain_comparison_finds(threshold: float) -> None:
    texts, others = _texts(30, 0), _texts(40, 1)
    table = np.array([[_jaccard(one, other, 5) for other in others] for one in texts])
    found = {same.text: same for same in duplicates(texts, others, 5, threshold)}
    assert set(found) == set(np.flatnonzero(table.max(axis=1) >= threshold))
    for place, same in found.items():
        assert same.similarity == pytest.approx(table[place].max())
        assert table[place, same.other] == pytest.approx(table[place].max())


def test_case_marks_and_width_make_no_difference() -> None:
    assert normalised("  How DO I,\tbake: bread？ ") == "how do i bake bread"
    (same,) = duplicates(["How do I bake bread?"], ["x", "ＨＯＷ do i - bake bread"], 5, 1.0)
    assert same == (0, 1, 1.0)
    assert not list(duplicates([], ["a"], 5, 0.5))
    assert not list(duplicates(["abc"], ["abd"], 5, 0.5))


def _given(folder: Path, name: str, texts: list[str], **sizes: int) -> Given:
    raw = folder / f"{name}.raw.jsonl"
    write_jsonl(raw, [{"text": text} for text in texts])
    return Given(name, SetSettings(source=str(raw), label="harmless", **sizes), raw)


def _write(folder: Path, given: Given, *others: Given) -> tuple[list[dict[str, str]], Path]:
    out = folder / "prompts" / f"{given.name}.jsonl"
    files = (Path("data/grammar"), Path("data/sources.tsv"), given.raw, out)
    write_prompts(given.name, given.settings, 0, *files, 0, others, SETTINGS)
    return [json.loads(line) for line in out.read_text().splitlines()], out


def test_what_another_set_tests_is_left_out_of_train_and_val_and_other_prompts_take_its_place(
    tmp_path: Path,
) -> None:
    shared = _texts(8, 7)
    own = _given(tmp_path, "own", _texts(12, 3) + [text.upper() + "!" for text in shared], train=6, val=4)
    other = _given(tmp_path, "other", shared, test=8)
    rows, path = _write(tmp_path, own, other)
    assert [row["split"] for row in rows] == ["train"] * 6 + ["val"] * 4
    assert not {normalised(row["text"]) for row in rows} & {normalised(text) for text in shared}
    left_out = read_provenance(path)["left_out"]["other"]
    assert left_out > 0
    _, tested = _write(tmp_path, other)
    out = tmp_path / "overlap.csv"
    write_overlap([path, tested], out, SETTINGS)
    with out.open() as stream:
        table = {(row["set"], row["split"], row["other"]): row for row in csv.DictReader(stream)}
    assert table["own", "train", "other"]["exact"] == table["own", "train", "other"]["near"] == "0"
    assert table["own", "train", "other"]["left_out"] == str(left_out)


def test_prompts_that_take_the_place_of_others_keep_groups_in_one_split(tmp_path: Path) -> None:
    shared, raw = _texts(30, 7), tmp_path / "own.raw.jsonl"
    # Six groups, of which one is called 0, each with five prompts that another set tests.
    texts = [f"{text}!" for text in shared] + _texts(66, 3)
    write_jsonl(raw, [{"text": text, "group": at % 6} for at, text in enumerate(texts)])
    own = Given("own", SetSettings(source=str(raw), label="harmless", train=20, val=20, test=12), raw)
    found, path = _write(tmp_path, own, _given(tmp_path, "other", shared, test=30))
    assert read_provenance(path)["left_out"]["other"] > 4
    splits: dict[str, set[str]] = {}
    for row in found:
        splits.setdefault(row["group"], set()).add(row["split"])
    assert {len(one) for one in splits.values()} == {1}


def test_what_is_left_in_is_counted(tmp_path: Path) -> None:
    texts = _texts(8, 5)
    paths = []
    for name, split in (("own", "train"), ("other", "test")):
        paths.append(tmp_path / f"{name}.jsonl")
        rows = [{"id": text, "text": text, "label": "harmful", "split": split} for text in texts]
        write_jsonl(paths[-1], rows)
        (tmp_path / f"{name}.meta.json").write_text("{}")
    write_overlap(paths, tmp_path / "overlap.csv", SETTINGS)
    with (tmp_path / "overlap.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert (row["prompts"], row["exact"], row["near"]) == ("8", "8", "0")


def test_a_set_of_which_too_little_is_left_is_an_error(tmp_path: Path) -> None:
    shared = _texts(10, 7)
    own, other = _given(tmp_path, "own", shared, train=5), _given(tmp_path, "other", shared, test=10)
    with pytest.raises(SteerError, match="10 of its prompts say the same as test prompts"):
        _write(tmp_path, own, other)


def test_test_prompts_do_not_depend_on_other_sets(tmp_path: Path) -> None:
    own = _given(tmp_path, "own", _texts(60, 3), train=5, val=5, test=10)
    other = _given(tmp_path, "other", _texts(30, 3)[:15], test=15)
    alone, _ = _write(tmp_path, own)
    beside, _ = _write(tmp_path, own, other)
    tests = [[row for row in rows if row["split"] == "test"] for rows in (alone, beside)]
    assert tests[0] == tests[1]
    for one, held in product(beside, other.raw.read_text().splitlines()):
        assert one["split"] == "test" or one["text"] != json.loads(held)["text"]
