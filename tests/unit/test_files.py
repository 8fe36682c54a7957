import errno
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer.artifacts import files
from steer.errors import SteerError


def _names(folder: Path) -> list[str]:
    return sorted(member.name for member in folder.iterdir())


def test_a_file_has_its_final_name_only_once_it_is_whole(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "a.txt"
    with files.atomic_path(final) as partial:
        partial.write_text("half")
        assert not final.exists()
        partial.write_text("whole")
    assert final.read_text() == "whole"
    assert _names(final.parent) == ["a.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    final = tmp_path / "a.txt"
    final.write_text("old")
    with pytest.raises(ZeroDivisionError), files.atomic_path(final) as partial:
        partial.write_text(str(1 / (partial.write_text("new") - 3)))
    assert final.read_text() == "old"
    assert _names(tmp_path) == ["a.txt"]


def test_what_a_killed_run_left_beside_a_file_is_replaced(tmp_path: Path) -> None:
    final = tmp_path / "a.txt"
    left = files.partial_path(final)
    left.mkdir()
    (left / "x").write_text("left over")
    files.write_bytes(final, b"new")
    assert final.read_bytes() == b"new"
    assert _names(tmp_path) == ["a.txt"]


def test_a_folder_replaces_a_folder_as_a_whole(tmp_path: Path) -> None:
    final = tmp_path / "checkpoint"
    for name in ("first", "second"):
        with files.atomic_path(final) as partial:
            (partial / "sub").mkdir(parents=True)
            (partial / "sub" / name).write_text(name)
    assert [str(path.relative_to(final)) for path in final.rglob("*")] == ["sub", "sub/second"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_reported_with_the_room_left_and_a_way_on(tmp_path: Path, error: Exception) -> None:
    final = tmp_path / "a.bin"
    full = pytest.raises(SteerError, match=r"a\.bin: the disk is full .* MiB free")
    with full as caught, files.atomic_path(final):
        raise error
    assert "larger disk" in caught.value.next_step
    assert _names(tmp_path) == []


def test_another_error_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output") as caught, files.atomic_path(tmp_path / "a"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert not isinstance(caught.value, SteerError)


def test_a_folder_whose_place_is_taken_by_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises(SteerError, match="results/prompts: can't be a folder"):
        files.write_bytes(tmp_path / "results" / "prompts" / "a.jsonl", b"")


def test_a_folder_that_may_not_be_written_to_is_named(tmp_path: Path) -> None:
    final = tmp_path / "a"
    # Root, as which containers run the tests, may write anywhere: the error is raised by hand.
    with pytest.raises(SteerError, match="no permission"), files.atomic_path(final) as partial:
        raise PermissionError(errno.EACCES, "Permission denied", str(partial))


def test_an_input_that_may_not_be_read_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), files.atomic_path(tmp_path / "out" / "a"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "in" / "b"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values))
def test_canonical_json_reads_back_and_ignores_the_order_of_keys(value: dict[str, object]) -> None:
    text = files.canonical_json(value)
    assert json.loads(text) == value
    assert files.canonical_json(dict(reversed(value.items()))) == text


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_refuses_what_is_not_a_number(tmp_path: Path, value: float) -> None:
    for write in (files.write_json, lambda path, x: files.write_jsonl(path, [x])):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write(tmp_path / "a.json", {"x": value})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.canonical_json(value)
    assert _names(tmp_path) == []


def test_json_and_jsonl_read_back(tmp_path: Path) -> None:
    rows = [{"id": "ä", "n": 1}, {"id": "line\nbreak", "n": None}]
    files.write_json(tmp_path / "a.json", rows)
    files.write_jsonl(tmp_path / "a.jsonl", rows)
    assert files.read_json(tmp_path / "a.json") == rows
    assert files.read_jsonl(tmp_path / "a.jsonl") == rows
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == len(rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b'{"a": 1}\n{"a": ', "line 2: is not JSON"), (b'{"a": 1}\n[1]\n', "line 2: is not a JSON object")],
)
def test_a_damaged_line_is_named_by_its_number(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(SteerError, match=message):
        files.read_jsonl(path)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), (b"{", "is not JSON"), (b"\xff", "is not UTF-8")]
)
def test_a_json_file_that_can_not_be_read_is_named(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SteerError, match=rf"a\.json: {message}"):
        files.read_json(path)


def test_a_missing_jsonl_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SteerError, match=r"a\.jsonl: no such file"):
        files.read_jsonl(tmp_path / "a.jsonl")


def test_csv_cells_keep_ten_digits_and_leave_out_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [{"x": 1 / 3, "y": None}, {"x": math.nan, "y": 'a,"b"'}, {"y": 1234567890123}]
    files.write_csv(path, rows, ["x", "y"])
    assert path.read_text() == 'x,y\n0.3333333333,\n,"a,""b"""\n,1234567890123\n'


def test_csv_refuses_a_key_that_is_no_column(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="z"):
        files.write_csv(tmp_path / "a.csv", [{"z": 1}], ["x"])
    assert _names(tmp_path) == []


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    files.remove(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    files.remove(tmp_path / "file" / "below")
    files.remove(tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    files.remove(tmp_path / "link")
    assert _names(tmp_path) == []


def test_a_byte_order_mark_is_named(tmp_path: Path) -> None:
    (tmp_path / "marked.jsonl").write_text('{"text": "a"}\n', encoding="utf-8-sig")
    with pytest.raises(SteerError, match=r"marked.jsonl, line 1: starts with a byte order mark"):
        files.read_jsonl(tmp_path / "marked.jsonl")
