import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from steer.artifacts import provenance as module
from steer.artifacts.provenance import (
    code_digest,
    digest,
    file_digest,
    folder_digest,
    modules_behind,
    provenance,
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `steer` of a few modules, in place of the real one."""
    folder = tmp_path / "steer"
    for name, text in {
        "__init__.py": "",
        "stage.py": "from steer.shared import leaf\nimport json\n",
        "other.py": "X = 1\n",
        "shared/__init__.py": "",
        "shared/leaf.py": "def f():\n    from steer import late\n    return 1\n",
        "late.py": "Y = 1\n",
    }.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(module, "PACKAGE", folder)
    _forget()
    yield folder
    _forget()


def _forget() -> None:
    modules_behind.cache_clear()
    code_digest.cache_clear()


def _code() -> str:
    _forget()
    return code_digest("steer.stage")


def test_the_modules_behind_a_stage_are_those_it_imports_at_any_depth(package: Path) -> None:
    assert modules_behind("steer.stage") == (
        "steer",
        "steer.late",
        "steer.shared",
        "steer.shared.leaf",
        "steer.stage",
    )


@pytest.mark.parametrize("name", ["stage.py", "shared/leaf.py", "shared/__init__.py", "late.py"])
def test_changed_code_behind_a_stage_changes_its_digest(package: Path, name: str) -> None:
    before = _code()
    path = package / name
    path.write_text(path.read_text() + "Z = 2\n")
    assert _code() != before


def test_code_that_the_stage_does_not_import_does_not_count(package: Path) -> None:
    before = _code()
    (package / "other.py").write_text("X = 2\n")
    assert _code() == before


def test_comments_and_layout_do_not_count(package: Path) -> None:
    before = _code()
    (package / "late.py").write_text("# a reason\n\nY   =   1\n")
    assert _code() == before


def test_a_stage_depends_on_the_module_that_writes_its_files() -> None:
    assert "steer.artifacts.parts" in modules_behind("steer.activations")
    assert "steer.directions.refusal" not in modules_behind("steer.activations")


def test_a_digest_ignores_the_order_of_keys_and_nothing_else() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert len({digest(value) for value in ({"a": 1}, {"a": 2}, {"b": 1}, [1, 2], [2, 1], "1", 1, None)}) == 8


def test_a_file_digest_is_the_sha256_that_other_tools_print(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"content")
    assert file_digest(path) == hashlib.sha256(b"content").hexdigest()


def test_a_folder_digest_covers_names_and_bytes_but_not_the_place(tmp_path: Path) -> None:
    digests = []
    for folder, name, content in [("a", "x", "1"), ("b", "x", "1"), ("c", "y", "1"), ("d", "x", "2")]:
        (tmp_path / folder / "sub").mkdir(parents=True)
        (tmp_path / folder / "sub" / name).write_text(content)
        digests.append(folder_digest(tmp_path / folder))
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_provenance_tells_settings_inputs_code_and_libraries_and_no_time() -> None:
    record = provenance("steer.directions.refusal", {"filter": True}, {"model": "m"}, seed=3)
    assert record == provenance("steer.directions.refusal", {"filter": True}, {"model": "m"}, seed=3)
    assert record["inputs"] == {"model": "m"}
    assert record["seed"] == 3
    assert record["code"] == code_digest("steer.directions.refusal")
    assert set(record["libraries"]) >= {"torch", "transformers", "h5py"}
    assert record["settings"] != provenance("steer.directions.refusal", {"filter": False}, {})["settings"]
