"""A SLURM of one node on this machine, for the length of the tests."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
# Steps that a job starts look for it there, whatever SLURM_CONF says.
CONFIG = Path("/etc/slurm/slurm.conf")
GRES = CONFIG.with_name("gres.conf")
MARK = "# Written by the tests of this project, and removed by them.\n"
LONGEST_START = 60.0


def _reason() -> str | None:
    """Why there can be no SLURM here, if there can't."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "only root can start the daemons and write /etc/slurm/slurm.conf"
    for path in (CONFIG, GRES):
        if path.exists() and not path.read_text().startswith(MARK):
            return f"this machine has a SLURM of its own ({path}), which is left alone"
    return None


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _configuration(folder: Path, host: str) -> str:
    """One node that claims two GPUs and much memory, as the profile asks for them; nothing checks either."""
    settings = {
        "ClusterName": "tests",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": _port(),
        "SlurmdPort": _port(),
        "SlurmUser": "root",
        "AuthInfo": f"socket={folder}/munge.socket",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.pid",
        "SlurmctldLogFile": folder / "slurmctld.log",
        "SlurmdLogFile": folder / "slurmd.log",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "AccountingStorageType": "accounting_storage/none",
        "MpiDefault": "none",
        "GresTypes": "gpu",
        "SlurmdParameters": "config_overrides",
        "KillWait": 5,
        # Jobs are counted when all are done.
        "MinJobAge": 3600,
    }
    lines = [f"{key}={value}" for key, value in settings.items()]
    lines.append(f"NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=400000 Gres=gpu:2 State=UNKNOWN")
    lines.append(f"PartitionName=tests Nodes={host} Default=YES MaxTime=INFINITE State=UP")
    return MARK + "\n".join(lines) + "\n"


def _start(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert not done.returncode, f"{command[0]}: {done.stdout}{done.stderr}"


def _stop(pid_file: Path) -> None:
    """End the daemon that wrote this file, and no other."""
    if not pid_file.is_file():
        return
    pid = int(pid_file.read_text())
    for sent in (signal.SIGTERM, signal.SIGKILL):
        for _ in range(50):
            try:
                os.kill(pid, sent)
            except ProcessLookupError:
                return
            time.sleep(0.1)


def _wait_until_idle(folder: Path) -> None:
    deadline = time.monotonic() + LONGEST_START
    while time.monotonic() < deadline:
        told = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False)
        if told.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = "\n".join(path.read_text() for path in sorted(folder.glob("*.log")))
    raise AssertionError(f"the node never became idle:\n{logs}")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A running SLURM; skipped, with the reason, where there can be none."""
    if reason := _reason():
        pytest.skip(f"NOT RUN: no SLURM could be started: {reason}")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    pids = [folder / f"{name}.pid" for name in ("slurmd", "slurmctld", "munged")]
    CONFIG.parent.mkdir(parents=True, exist_ok=True)
    try:
        CONFIG.write_text(_configuration(folder, socket.gethostname().split(".")[0]))
        # Device files that are there on every machine stand for two GPUs.
        GRES.write_text(f"{MARK}Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
        _start(
            *("munged", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"),
            *(f"--pid-file={pids[2]}", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed"),
        )
        _start("slurmctld", "-f", str(CONFIG))
        _start("slurmd", "-f", str(CONFIG))
        _wait_until_idle(folder)
        yield folder
    finally:
        for pid in pids:
            _stop(pid)
        CONFIG.unlink(missing_ok=True)
        GRES.unlink(missing_ok=True)
