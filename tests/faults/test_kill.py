import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from steer import activations
from steer.activations import dump, parts_folder
from steer.artifacts.journal import Journal
from steer.models.loading import LoadedModel
from tests.activation_sets import facts_of
from tests.faults.killed_dump import MODEL, PROMPTS, SETTINGS

ROOT = Path(__file__).parents[2]


def test_a_dump_killed_anywhere_goes_on_and_ends_with_the_same_bytes(
    checkpoint: Callable[[str], Path],
    tiny: Callable[[str], LoadedModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = tiny("olmoe")
    whole, out = tmp_path / "whole.h5", tmp_path / "killed" / "set.h5"
    dump(loaded, facts_of(loaded), PROMPTS, whole, MODEL, SETTINGS)
    command = [sys.executable, "-m", "tests.faults.killed_dump", str(checkpoint("olmoe")), str(out)]
    runs = subprocess.run(
        [*command, "10", "150", "150", "300"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.splitlines()
    signals, parts, finished = zip(*(run.split() for run in runs), strict=True)
    assert set(signals) == {str(int(signal.SIGKILL))}
    assert set(finished) == {"False"}
    # Before the first part is whole, twice among the parts, and while the parts are joined.
    assert parts[0] == "0"
    assert 0 < int(parts[1]) < int(parts[2]) <= int(parts[3]) == 5
    monkeypatch.setattr(
        activations, "read_batch", lambda *_arguments: pytest.fail("a finished batch is read again")
    )
    dump(loaded, facts_of(loaded), PROMPTS, out, MODEL, SETTINGS)
    assert out.read_bytes() == whole.read_bytes()
    assert not parts_folder(out).exists()
    assert [path.name for path in out.parent.iterdir()] == ["set.h5"]


FILL = """
import sys
from steer.artifacts.journal import Journal
with Journal(sys.argv[1]) as journal:
    for index in range(len(journal), 10**9):
        journal.add_many([(f"{index}.{part}", {"text": "x" * 5000}) for part in range(3)])
"""


def test_a_journal_whose_writer_is_killed_loses_at_most_the_batch_in_hand(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    counts = [0]
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", FILL, str(path)], cwd=ROOT)
        size = path.stat().st_size if path.exists() else 0
        deadline = time.monotonic() + 60
        while not path.exists() or path.stat().st_size < size + 100_000:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        with Journal(path) as journal:
            counts.append(len(journal))
            for line in path.read_text().splitlines():
                assert line.endswith("}}")
    assert counts == sorted(set(counts))
