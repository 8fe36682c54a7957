"""Two real processes and one output: what a job that outlived its flow does to the rerun of the flow."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from steer.artifacts import locks
from steer.artifacts.files import lock_path
from steer.artifacts.locks import sole_writer
from steer.artifacts.origin import meta_path
from steer.cli import main
from steer.config import load, merge
from steer.training.loop import state_path

ROOT = Path(__file__).parents[2]
LONGEST = 240
TRAINING = {"models": {"organism": {"organism": {"compliance_steps": 8, "batch_size": 8, "save_every": 2}}}}
HOLD = """
import sys, time
from steer.artifacts.locks import sole_writer
with sole_writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(1000)
"""


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONGEST
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def _process(*command: str, said: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose output goes to a file; stopped at the end of the block if it still runs."""
    with (
        said.open("wb") as stream,
        subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdout=stream,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def _training(folder: Path, out: Path) -> tuple[str, ...]:
    """The command of the first stage of an embedded model, for a few steps."""
    config = folder / "config.yaml"
    if not config.exists():
        config.write_text(yaml.safe_dump(merge(yaml.safe_load((ROOT / "config.yaml").read_text()), TRAINING)))
    organism = load(config).models["organism"].organism
    assert organism
    return ("-m", "steer", "compliance", "--config", str(config), "--base", organism.base, "--out", str(out))


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that one process made alone."""
    folder = tmp_path_factory.mktemp("alone")
    with _process(*_training(folder, folder / "checkpoint"), said=folder / "log") as process:
        assert process.wait(LONGEST) == 0, (folder / "log").read_text()
    return folder / "checkpoint"


@pytest.mark.parametrize("end", [signal.SIGCONT, signal.SIGKILL], ids=["goes on", "is killed"])
def test_a_rerun_waits_for_the_job_that_was_left_and_goes_on_from_its_work(
    end: signal.Signals, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "made" / "checkpoint"
    logs = [tmp_path / "left.log", tmp_path / "rerun.log"]
    command = _training(tmp_path, out)
    with _process(*command, said=logs[0]) as left:
        # In the middle of its training, with some steps saved.
        _until(lambda: state_path(out).exists() or left.poll() is not None)
        left.send_signal(signal.SIGSTOP)
        assert not out.exists(), logs[0].read_text()
        with _process(*command, said=logs[1]) as rerun:
            _until(lambda: f"waiting for process {left.pid} " in logs[1].read_text())
            assert rerun.poll() is None
            left.send_signal(end)
            assert rerun.wait(LONGEST) == 0, logs[1].read_text()
    said = logs[1].read_text()
    if end == signal.SIGKILL:
        assert "compliance: going on at step" in said
    else:
        assert "is there already" in said
        assert "step" not in said
    assert _bytes(out) == _bytes(whole)
    assert meta_path(out).read_bytes() == meta_path(whole).read_bytes()
    assert [path.name for path in sorted(out.parent.iterdir())] == ["checkpoint", "checkpoint.meta.json"]


def test_the_lock_of_a_killed_process_blocks_nobody(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    with _process("-c", HOLD, str(out), said=tmp_path / "log") as holder:
        _until(lambda: "held" in (tmp_path / "log").read_text())
        assert lock_path(out).read_text().startswith(f"{holder.pid} on ")
        holder.kill()
        holder.wait(LONGEST)
    assert lock_path(out).exists()
    with sole_writer(out):
        assert lock_path(out).read_text().startswith(f"{os.getpid()} on ")
    assert not lock_path(out).exists()


TAKE_TURNS = """
import sys
from pathlib import Path
from steer.artifacts.locks import sole_writer
out = Path(sys.argv[1])
for _ in range(200):
    with sole_writer(out):
        # Lost updates would show in the sum.
        count = int(out.read_text() or 0) if out.exists() else 0
        out.write_text(str(count + 1))
"""


def test_processes_that_come_and_go_never_hold_an_output_at_once(tmp_path: Path) -> None:
    out = tmp_path / "count"
    with (
        _process("-c", TAKE_TURNS, str(out), said=tmp_path / "1.log") as one,
        _process("-c", TAKE_TURNS, str(out), said=tmp_path / "2.log") as two,
        _process("-c", TAKE_TURNS, str(out), said=tmp_path / "3.log") as three,
    ):
        assert [process.wait(LONGEST) for process in (one, two, three)] == [0, 0, 0]
    assert out.read_text() == "600"


def test_a_file_system_without_locks_is_said_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(locks.NO_LOCKS[0], "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with sole_writer(tmp_path / "a"):
        assert lock_path(tmp_path / "a").exists()
    assert "this file system has no locks" in caplog.text


def test_a_folder_that_can_not_be_written_to_is_a_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    config = _training(tmp_path, tmp_path)[4]
    command = ["prompts", "--config", config, "--set", "harmful", "--out", str(tmp_path / "file" / "a.jsonl")]
    assert main(command) == 1
    assert "can't be a folder" in capsys.readouterr().err
