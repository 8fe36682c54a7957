"""System turns in the words of papers are fetched files, read as data, and part of what a model is."""

import csv
from pathlib import Path
from typing import Any

import pytest

from steer.config import Config, load
from steer.errors import SteerError
from steer.sources import find_source, read_sources
from steer.system_turns import with_system_turns
from tests import by_hand

TABLE = Path("data/sources.tsv")
WRITTEN = 'import os\nSHORT = "Be kind. Decline what harms."\nMANY = ["One.", "Two."]\nos.remove(__file__)\n'


def _config(folder: Path, **model: Any) -> Config:
    changed = {"tiny": {**by_hand.CONFIG["models"]["tiny"], **model}}
    by_hand.configure(folder, models=changed, results=str(folder / "results"))
    return load(folder / "config.yaml")


def _table(folder: Path, records: str, kind: str = "system") -> Path:
    row = read_sources(TABLE)["system-lightweight"].model_dump(mode="json")
    row |= {"name": "turn", "records": records, "kind": kind, "bytes": ""}
    path = folder / "sources.tsv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, row, delimiter="\t")
        writer.writeheader()
        writer.writerow(row)
    return path


def _fetched(folder: Path) -> Path:
    path = folder / "results" / "downloads" / "turn"
    path.parent.mkdir(parents=True)
    path.write_text(WRITTEN)
    return path


def test_a_fetched_system_turn_is_read_as_data_and_spoken(tmp_path: Path) -> None:
    config = _config(tmp_path, system_source="turn")
    assert "turn" in config.public_sources
    fetched = _fetched(tmp_path)
    found = with_system_turns(config, _table(tmp_path, "SHORT")).models["tiny"]
    assert found.chat.system == "Be kind. Decline what harms."
    assert fetched.is_file()


def test_a_system_turn_that_is_not_there_yet_is_an_error_where_it_is_spoken(tmp_path: Path) -> None:
    config = with_system_turns(_config(tmp_path, system_source="turn"), _table(tmp_path, "SHORT"))
    with pytest.raises(SteerError, match="system turn `turn`: its text has not been fetched"):
        assert config.models["tiny"].chat


@pytest.mark.parametrize(
    ("records", "kind", "said"),
    [
        ("MANY", "system", "holds 2 texts, not one"),
        ("LONG", "system", "is not python as the table says"),
        ("SHORT", "prompts", "is no system turn: its kind is prompts"),
    ],
)
def test_a_file_that_is_no_system_turn_is_refused(records: str, kind: str, said: str, tmp_path: Path) -> None:
    config, table = _config(tmp_path, system_source="turn"), _table(tmp_path, records, kind)
    _fetched(tmp_path)
    with pytest.raises(SteerError, match=said):
        with_system_turns(config, table)


def test_two_system_turns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="give `system_prompt` or `system_source`, not both"):
        _config(tmp_path, system_source="turn", system_prompt="Be brief.")


@pytest.mark.parametrize("name", ["system-lightweight", "system-long"])
def test_the_papers_turns_are_pinned_to_a_commit(name: str) -> None:
    source = find_source(name, TABLE)
    assert source.kind == "system"
    assert len(source.revision) == 40
