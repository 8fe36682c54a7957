import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from steer.artifacts.files import write_jsonl
from steer.cli import main
from steer.errors import SteerError
from tests.faults.conftest import SmallDisk
from tests.faults.killed_generation import answer, make

KIB = 1024


def test_a_command_that_finds_no_room_says_so_and_leaves_nothing(
    small_disk: SmallDisk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, config = tmp_path / "raw.jsonl", tmp_path / "config.yaml"
    write_jsonl(raw, [{"text": f"{index} {'tea ' * 100}"} for index in range(200)])
    settings = {
        "models": {"m": {"path": "x"}},
        "sets": {"s": {"source": str(raw), "label": "harmless", "test": 200}},
        "contrast": {"harmful": "h", "harmless": "s"},
        "arms": {"baseline": {"operation": "none"}},
        "generation": {"sets": ["s"]},
        "judges": {"truth": {"kind": "phrases"}},
    }
    settings["sets"]["h"] = {**settings["sets"]["s"], "label": "harmful"}
    config.write_text(yaml.safe_dump(settings))
    command = ["prompts", "--config", str(config), "--set", "s", "--raw", str(raw)]
    out = small_disk.path / "s.jsonl"
    small_disk.leave(40 * KIB)
    assert main([*command, "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert re.search(rf"error: {out}: the disk is full \(0\.\d MiB free\); nothing was written", said)
    assert "next: free some space, or set `results` to a folder on a larger disk" in said
    assert [path.name for path in small_disk.path.iterdir()] == ["filler"]
    small_disk.clear()
    assert main([*command, "--out", str(out)]) == 0


def test_a_generation_on_a_full_disk_goes_on_from_its_finished_rows(
    small_disk: SmallDisk, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = str(checkpoint("olmoe"))
    whole, study = (make(place / "study", folder, 60) for place in (tmp_path, small_disk.path))
    assert answer(whole) == 40
    # Room for the rows of some batches, in pages, as a tmpfs gives it.
    assert whole.path(".out.journal.jsonl").stat().st_size > 8 * KIB
    small_disk.leave(4 * KIB)
    with pytest.raises(SteerError, match="the disk is full"):
        answer(study)
    assert not study.path("out.jsonl").exists()
    small_disk.clear()
    assert 0 < answer(study) < 40
    assert study.path("out.jsonl").read_bytes() == whole.path("out.jsonl").read_bytes()
