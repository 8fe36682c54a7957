import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from steer import activations
from steer.activations import dump, parts_folder
from steer.artifacts.files import write_bytes
from steer.artifacts.journal import Journal
from steer.artifacts.tensors import write_tensors
from steer.config import ActivationSettings, ModelSettings
from steer.errors import SteerError
from steer.models.loading import LoadedModel
from tests.activation_sets import facts_of, make_prompts
from tests.faults.conftest import SmallDisk

KIB = 1024
FULL = re.compile(r"the disk is full \(\d+\.\d MiB free\)")
PROMPTS = make_prompts(64)


def _dump(loaded: LoadedModel, out: Path) -> None:
    dump(loaded, facts_of(loaded), PROMPTS, out, ModelSettings(path="x", batch_size=8), ActivationSettings())


def test_a_file_that_does_not_fit_is_not_there_at_all(small_disk: SmallDisk) -> None:
    small_disk.leave(100 * KIB)
    for write in (
        lambda path: write_bytes(path, bytes(200 * KIB)),
        lambda path: write_tensors(path, {"a": torch.zeros(200 * KIB)}, model="m", provenance={}),
    ):
        with pytest.raises(SteerError, match=FULL):
            write(small_disk.path / "a")
        assert [path.name for path in small_disk.path.iterdir()] == ["filler"]
    write_bytes(small_disk.path / "a", bytes(50 * KIB))


def _add_one_by_one(journal: Journal, rows: list[tuple[str, Any]]) -> None:
    for key, row in rows:
        journal.add(key, row)


def test_a_journal_keeps_its_rows_and_goes_on_when_there_is_room_again(small_disk: SmallDisk) -> None:
    path = small_disk.path / "journal.jsonl"
    rows = [(f"k{index}", {"text": "x" * 10 * KIB}) for index in range(20)]
    small_disk.leave(100 * KIB)
    with Journal(path) as journal:
        with pytest.raises(SteerError, match=FULL) as caught:
            _add_one_by_one(journal, rows)
        done = len(journal)
        assert 0 < done < len(rows)
        assert f"the {done} finished rows in it are kept" in caught.value.cause
        assert rows[done][0] not in journal
        small_disk.clear()
        journal.add_many(rows[done:])
    with Journal(path) as journal:
        assert all(journal.get(key) == row for key, row in rows)


@pytest.mark.parametrize("place", ["in the middle of the parts", "in the middle of the final file"])
def test_a_dump_on_a_full_disk_says_so_and_goes_on_from_its_finished_batches(
    small_disk: SmallDisk,
    tiny: Callable[[str], LoadedModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    loaded = tiny("olmoe")
    _dump(loaded, tmp_path / "set.h5")
    size = (tmp_path / "set.h5").stat().st_size
    out = small_disk.path / "set.h5"
    small_disk.leave(size // 2 if "parts" in place else size + size // 2)
    with pytest.raises(SteerError, match=FULL):
        _dump(loaded, out)
    assert not out.exists()
    kept = len(list(parts_folder(out).iterdir()))
    assert 0 < kept < 8 if "parts" in place else kept == 8
    small_disk.clear()
    batches = []
    read_batch = activations.read_batch
    monkeypatch.setattr(activations, "read_batch", lambda *given: batches.append(given) or read_batch(*given))
    _dump(loaded, out)
    assert len(batches) == 8 - kept
    assert out.read_bytes() == (tmp_path / "set.h5").read_bytes()
    assert [path.name for path in small_disk.path.iterdir()] == ["set.h5"]
