import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from envs import install
from tests.setup.conftest import Project, fake_python


def _installed(project: Project) -> bool:
    done = project.run(project.venv / "bin" / "python", "-c", "import tiny")
    return done.returncode == 0


def test_a_finished_environment_is_left_alone(project: Project) -> None:
    before = (project.venv / "complete.json").stat().st_mtime_ns
    done = project.set_up()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (project.venv / "complete.json").stat().st_mtime_ns == before
    assert _installed(project)


def test_an_environment_whose_installation_was_killed_is_built_anew(fresh: Project) -> None:
    command = [sys.executable, "envs/install.py", "--need-gib", "0.1"]
    with subprocess.Popen(
        command, cwd=fresh.root, stdout=subprocess.DEVNULL, start_new_session=True
    ) as running:
        while not (fresh.venv / "bin" / "python").exists():
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGKILL)
    assert not (fresh.venv / "complete.json").exists()
    done = fresh.set_up()
    assert "its last installation did not finish" in done.stdout
    assert done.returncode == 0
    assert _installed(fresh)


def _finished(folder: Path) -> tuple[Path, Path]:
    """A folder that passes for a finished environment, and the pins that it was made from."""
    venv, lock = folder / ".venv", folder / "steer.lock.txt"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    lock.write_text("tiny==1.0\n")
    stamp = {"path": str(venv), "python": platform.python_version(), "lock": install.digest(lock)}
    install.write_stamp(venv, stamp)
    return venv, lock


def _forget(venv: Path, lock: Path) -> None:
    del lock
    (venv / "complete.json").unlink()


def _truncate(venv: Path, lock: Path) -> None:
    del lock
    (venv / "complete.json").write_text('{"path"')


def _lose_python(venv: Path, lock: Path) -> None:
    del lock
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to("/nonexistent/python")


def _break_python(venv: Path, lock: Path) -> None:
    _lose_python(venv, lock)
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to("/bin/false")


def _move(venv: Path, lock: Path) -> None:
    del lock
    install.write_stamp(venv, {**install.read_stamp(venv), "path": "/elsewhere/.venv"})


def _change_pins(venv: Path, lock: Path) -> None:
    del venv
    lock.write_text("tiny==2.0\n")


def _change_python(venv: Path, lock: Path) -> None:
    del lock
    install.write_stamp(venv, {**install.read_stamp(venv), "python": "3.11.0rc1"})


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (_forget, "its last installation did not finish"),
        (_truncate, "its last installation did not finish"),
        (_lose_python, "its Python does not run any more"),
        (_break_python, "its Python does not run any more"),
        (_move, "the folder was moved, and its commands still name the old place"),
        (_change_pins, "steer.lock.txt has changed"),
        (_change_python, f"it holds Python {platform.python_version()}, not 3.11.0rc1"),
    ],
)
def test_an_environment_that_can_not_be_trusted_is_built_anew_for_a_reason_in_words(
    tmp_path: Path, harm: Callable[[Path, Path], None], reason: str
) -> None:
    venv, lock = _finished(tmp_path)
    assert install.reason_to_build(venv, lock, same_python=True) is None
    harm(venv, lock)
    assert install.reason_to_build(venv, lock, same_python=False) == reason


@pytest.mark.parametrize(
    ("output", "cause", "next_step"),
    [
        (
            "ERROR: Could not find a version\nERROR: No matching distribution found for tiny==2.0\n",
            "No matching distribution found for tiny==2.0 (for Python",
            "3.11, 3.12 or 3.13",
        ),
        ("OSError: [Errno 28] No space left on device\n", "the disk is full", "TORCH_INDEX"),
        ("urllib3: Temporary failure in name resolution\n", "can't be reached", "check the connection"),
        ("ERROR: Exception:\nTraceback\nValueError: odd\n", "ValueError: odd", "run the same command again"),
        ("", "it gave no reason", "run the same command again"),
    ],
)
def test_the_output_of_a_failed_step_is_told_in_words(
    tmp_path: Path, output: str, cause: str, next_step: str
) -> None:
    what, told, advice = install.failure("the packages can't be installed", output, tmp_path).lines
    assert what == "the packages can't be installed"
    assert cause in told
    assert next_step in advice


def test_changed_pins_build_the_environment_anew_and_drop_what_they_no_longer_name(project: Project) -> None:
    site = next(project.venv.glob("lib/python*/site-packages"))
    (site / "stray.py").touch()
    project.lock.write_text(project.lock.read_text() + "# changed\n")
    done = project.set_up()
    assert "steer.lock.txt has changed" in done.stdout
    assert done.returncode == 0
    assert not (site / "stray.py").exists()


def test_a_changed_project_file_reinstalls_the_project_alone(project: Project) -> None:
    site = next(project.venv.glob("lib/python*/site-packages"))
    (site / "stray.py").touch()
    (project.root / "pyproject.toml").write_text(
        (project.root / "pyproject.toml").read_text() + "# changed\n"
    )
    done = project.set_up()
    assert done.returncode == 0
    assert "building" not in done.stdout
    assert "is complete" in done.stdout
    assert (site / "stray.py").exists()


def test_an_old_python_is_refused_with_its_version_and_the_way_to_name_another(
    fresh: Project, old_python: Path
) -> None:
    done = fresh.set_up(python=old_python)
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed" in done.stderr
    assert "is Python 3.9.1" in done.stderr
    assert "make PYTHON=" in done.stderr
    assert not fresh.venv.exists()


def test_an_old_python_may_start_an_environment_that_another_python_finished(
    project: Project, old_python: Path
) -> None:
    done = project.set_up(python=old_python)
    assert (done.returncode, done.stderr) == (0, "")
    assert project.set_up("--same-python", python=old_python).returncode == 1


def test_a_python_without_venv_is_refused_with_the_package_to_install(fresh: Project, tmp_path: Path) -> None:
    done = fresh.set_up(python=fake_python(tmp_path, "sys.modules['ensurepip'] = None"))
    assert done.returncode == 1
    assert "no module `ensurepip`" in done.stderr
    assert "python3-venv" in done.stderr


def test_too_little_disk_space_is_told_before_anything_is_made(fresh: Project) -> None:
    done = fresh.set_up("--need-gib", "1000000")
    assert done.returncode == 1
    assert "not enough disk space" in done.stderr
    assert "1000000.0 GiB are needed" in done.stderr
    assert not fresh.venv.exists()


def test_a_disk_that_fills_up_on_the_way_is_told(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can only be mounted by root")
    try:
        small = Project(disk / "a project")
        done = small.run(sys.executable, "envs/install.py", "--need-gib", "0")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert done.returncode == 1
    assert "the disk is full (0.0 GiB free" in done.stderr


def test_an_index_that_is_not_reached_is_told(fresh: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh.lock.write_text("tiny==1.0\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    done = fresh.set_up()
    assert done.returncode == 1
    assert "the package index can't be reached" in done.stderr
    assert not (fresh.venv / "complete.json").exists()


def test_a_folder_that_is_no_environment_is_never_cleared(fresh: Project) -> None:
    fresh.venv.mkdir()
    (fresh.venv / "notes.txt").write_text("mine")
    done = fresh.set_up()
    assert done.returncode == 1
    assert "it holds notes.txt" in done.stderr
    assert (fresh.venv / "notes.txt").read_text() == "mine"
