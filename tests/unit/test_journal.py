from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer.artifacts.journal import Journal
from steer.errors import SteerError

ROWS = [("k1", {"text": "a\nb", "n": 1}), ("k2", {"text": "ä", "n": None}), ("k3", {"x": [1.5]})]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "generation" / ".harmful.journal.jsonl"


def _fill(path: Path) -> bytes:
    with Journal(path) as journal:
        journal.add(*ROWS[0])
        journal.add_many(ROWS[1:])
    return path.read_bytes()


def test_rows_are_there_at_once_and_after_reopening(path: Path) -> None:
    with Journal(path) as journal:
        for key, row in ROWS:
            assert key not in journal
            journal.add(key, row)
            assert journal.get(key) == row
        assert journal.get("k1") == ROWS[0][1]
    with Journal(path) as journal:
        assert {key: journal.get(key) for key, _ in ROWS} == dict(ROWS)
        assert len(journal) == len(ROWS)
        journal.add("k4", {})
    with Journal(path) as journal:
        assert journal.get("k4") == {}


@given(cut=st.integers(0, 200))
def test_a_journal_cut_anywhere_keeps_the_whole_lines_and_takes_new_rows(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "j.jsonl"
    content = _fill(path)[:cut]
    path.write_bytes(content)
    whole = content.count(b"\n")
    with Journal(path) as journal:
        assert [key in journal for key, _ in ROWS] == [index < whole for index in range(len(ROWS))]
        journal.add_many(ROWS[whole:])
    with Journal(path) as journal:
        assert {key: journal.get(key) for key, _ in ROWS} == dict(ROWS)


def test_a_last_line_of_another_shape_is_dropped(path: Path) -> None:
    content = _fill(path)
    path.write_bytes(content + b'{"no key": 1}\n')
    with Journal(path) as journal:
        assert len(journal) == len(ROWS)
    assert path.read_bytes() == content


def test_a_damaged_line_before_others_is_named(path: Path) -> None:
    lines = _fill(path).splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0\0\0\n" + lines[2])
    with pytest.raises(SteerError, match="line 2: is damaged"):
        Journal(path)


def test_a_key_can_not_be_added_twice(path: Path) -> None:
    content = _fill(path)
    with Journal(path) as journal:
        for rows in ([ROWS[0]], [("new", {}), ("new", {})]):
            with pytest.raises(ValueError, match="there already"):
                journal.add_many(rows)
    assert path.read_bytes() == content


def test_an_unknown_key_is_an_error(path: Path) -> None:
    with Journal(path) as journal, pytest.raises(KeyError):
        journal.get("nothing")


def test_a_row_that_json_can_not_hold_leaves_the_journal_as_it_was(path: Path) -> None:
    content = _fill(path)
    with Journal(path) as journal:
        with pytest.raises(ValueError, match="not JSON compliant"):
            journal.add_many([("k4", {}), ("k5", {"x": float("nan")})])
        assert "k4" not in journal
    assert path.read_bytes() == content


def test_stale_rows_are_dropped_once_they_outnumber_the_wanted_ones(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.add_many((f"k{index}", {"text": "é" * index}) for index in range(5))
        before = path.read_bytes()
        journal.drop_stale(["k4", "k1", "k3", "absent"])
        assert path.read_bytes() == before
        journal.drop_stale(["k4", "k1"])
        assert path.read_bytes().splitlines() == [before.splitlines()[index] for index in (1, 4)]
        assert "k0" not in journal
        assert journal.get("k4") == {"text": "éééé"}
        journal.add("k0", {"text": "new"})
        assert len(journal) == 3
    with Journal(path) as journal:
        assert [journal.get(key)["text"] for key in ("k0", "k1", "k4")] == ["new", "é", "éééé"]
    assert [place.name for place in tmp_path.iterdir()] == [path.name]
