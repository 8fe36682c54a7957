import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.faults.killed_generation import answer, make

ROOT = Path(__file__).parents[2]
KILLED = f"{int(signal.SIGKILL)} False"


def test_a_generation_killed_anywhere_goes_on_and_ends_with_the_same_bytes(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = str(checkpoint("olmoe"))
    whole = make(tmp_path / "whole", folder)
    assert answer(whole) == 8
    killed = tmp_path / "killed"
    # At once; in the second batch; then, with one batch kept, in the middle of writing the third.
    points = ("batch:1", "batch:2", "line:2")
    command = [sys.executable, "-m", "tests.faults.killed_generation", folder, str(killed), *points]
    said = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    assert said.splitlines() == [KILLED] * 3
    journal = killed / ".out.journal.jsonl"
    assert journal.read_bytes().count(b"\n") >= 4
    assert not journal.read_bytes().endswith(b"\n")
    study = make(killed, folder)
    # Two batches were finished; of the third, the rows whose lines are whole are computed again or kept.
    assert answer(study) == 4
    for name in ("out.jsonl", "out.meta.json"):
        assert study.path(name).read_bytes() == whole.path(name).read_bytes()
    assert answer(study) == 0
