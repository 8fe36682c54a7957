"""Make the project's virtual environment, or find that it stands complete; called by the Makefile.

Standard library only, and no syntax newer than Python 3.8, so that an older Python can be told so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST = (3, 11)
NEWER = ("python3.13", "python3.12", "python3.11")
SHOWN = ("Collecting", "Downloading", "Installing", "ERROR", "WARNING: Retrying")
WIDTH = 110
NEED_GIB = 3.0
FULL_GIB = 0.05
STAMP = "complete.json"
PREFETCHED = "prefetched"
"""What the Makefile leaves in the environment once public prompts are there."""
FOLDERS = {"bin", "include", "lib", "lib64", "share", "etc"}
VENV_MEMBERS = {*FOLDERS, "pyvenv.cfg", ".gitignore", STAMP, PREFETCHED}
NETWORK_SIGNS = (
    "connection broken by",
    "NewConnectionError",
    "ConnectTimeout",
    "ReadTimeout",
    "Max retries exceeded",
    "Temporary failure in name resolution",
    "Network is unreachable",
    "ProxyError",
    "SSLError",
    "Could not fetch URL",
)


class SetupError(Exception):
    """A failure of the set-up that the user can act on.

    Args:
        what: what could not be done.
        cause: why, with what was found.
        next_step: what to do about it.
    """

    def __init__(self, what: str, cause: str, next_step: str) -> None:
        super().__init__(what, cause, next_step)
        self.lines = (what, "  cause: " + cause, "  next:  " + next_step)


def say(message: str) -> None:
    """Tell the user what is being done."""
    print("set-up: " + message, flush=True)


def check_python() -> None:
    """Refuse a Python that is too old, or that can't make virtual environments."""
    found = platform.python_version()
    if sys.version_info[:2] < OLDEST:
        newer = next((name for name in NEWER if version_of(Path(name))), "/path/to/a/newer/python3")
        raise SetupError(
            f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed",
            f"{sys.executable} is Python {found}",
            f"run `make PYTHON={newer}`",
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        raise SetupError(
            "virtual environments can't be made",
            f"{sys.executable} (Python {found}) has no module `{error.name}`",
            "on Debian and Ubuntu: `apt install python3-venv`; or `make PYTHON=` another Python",
        ) from error


def check_disk(folder: Path, need_gib: float) -> None:
    """Refuse to begin where the installation can't fit."""
    free = shutil.disk_usage(folder).free / 2**30
    if free < need_gib:
        raise SetupError(
            "not enough disk space for the virtual environment",
            f"{folder} has {free:.1f} GiB free, and {need_gib:.1f} GiB are needed",
            "free some space, or move the project to a larger disk",
        )


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_stamp(venv: Path) -> dict[str, str]:
    """What the last finished set-up wrote; empty if none finished."""
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(venv: Path, stamp: dict[str, str]) -> None:
    """Write the stamp whole or not at all."""
    partial = venv / (STAMP + ".partial")
    partial.write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
    partial.replace(venv / STAMP)


def version_of(python: Path) -> str | None:
    """The version that an interpreter reports; None if it doesn't run."""
    command = [str(python), "-c", "import platform; print(platform.python_version())"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def reason_to_build(venv: Path, lock: Path, same_python: bool) -> str | None:
    """Why the environment must be built anew, in words; None if it stands complete."""
    if not venv.exists():
        return "there is none yet"
    stamp = read_stamp(venv)
    found = version_of(venv / "bin" / "python")
    if not stamp:
        return "its last installation did not finish"
    if found is None:
        return "its Python does not run any more"
    if stamp.get("path") != str(venv):
        return "the folder was moved, and its commands still name the old place"
    if stamp.get("lock") != digest(lock):
        return f"{lock.name} has changed"
    if found != stamp.get("python") or (same_python and found != platform.python_version()):
        wanted = platform.python_version() if same_python else stamp.get("python")
        return f"it holds Python {found}, not {wanted}"
    return None


def check_replaceable(venv: Path) -> None:
    """Refuse to clear a folder that holds anything but a virtual environment."""
    foreign = {member.name for member in venv.iterdir()} - VENV_MEMBERS if venv.is_dir() else {venv.name}
    if venv.exists() and not (venv / "pyvenv.cfg").is_file() and foreign:
        raise SetupError(
            f"{venv} can't be used for the virtual environment",
            f"it is there already and is not one (it holds {sorted(foreign)[0]})",
            "move it elsewhere, and run the same command again",
        )


def run(command: list[str]) -> tuple[int, str]:
    """Run a command, passing on the lines that tell how far it is; its exit status and whole output."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        if line.strip().startswith(SHOWN):
            print(line.strip()[:WIDTH], flush=True)
        lines.append(line)
    return process.wait(), "".join(lines)


def failure(what: str, output: str, place: Path) -> SetupError:
    """The error for a failed step, told from its output."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it gave no reason"]
    # A pip that crashed says `ERROR: Exception:` first, and the cause last.
    last = next((line for line in reversed(lines) if "ERROR" in line and "Exception:" not in line), lines[-1])
    free = shutil.disk_usage(place).free / 2**30
    # `python -m venv` keeps to itself why it failed.
    if "No space left on device" in output or "Errno 28" in output or free < FULL_GIB:
        return SetupError(
            what,
            f"the disk is full ({free:.1f} GiB free at {place}; pip also unpacks under TMPDIR)",
            "free some space; a build of torch without CUDA needs 6 GB less: see TORCH_INDEX in `make help`",
        )
    if any(sign in output for sign in NETWORK_SIGNS):
        return SetupError(
            what,
            "the package index can't be reached",
            "check the connection (PIP_INDEX_URL, HTTPS_PROXY and PIP_CERT for a mirror or a proxy), "
            "and run the same command again (what was fetched is kept in pip's cache)",
        )
    if "No matching distribution" in output:
        here = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
        return SetupError(
            what, f"{last} (for {here})", "use Python 3.11, 3.12 or 3.13: `make PYTHON=python3.12`"
        )
    return SetupError(what, last, "mend the cause named above, and run the same command again")


def pip(venv: Path, *arguments: str) -> list[str]:
    """A command line of the environment's own pip."""
    return [
        str(venv / "bin" / "python"),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
        *arguments,
    ]


def build(venv: Path, lock: Path, torch_index: str) -> None:
    """Make the environment and install the exact pins."""
    check_replaceable(venv)
    # A Python inside the environment must not clear the ground it stands on.
    base = getattr(sys, "_base_executable", None) or sys.executable
    status, output = run([base, "-m", "venv", "--clear", str(venv)])
    if status:
        raise failure(f"the virtual environment {venv} can't be made", output, venv.parent)
    extra = ["--extra-index-url", torch_index] if torch_index else []
    status, output = run(pip(venv, "install", "--progress-bar=off", "-r", str(lock), *extra))
    if status:
        raise failure(f"the packages of {lock.name} can't be installed", output, venv.parent)
    status, output = run(pip(venv, "check"))
    if status:
        raise failure(f"the packages of {lock.name} don't fit together", output, venv.parent)


def install_package(venv: Path, project: Path) -> None:
    """Install the project itself, editable; nothing is fetched for it."""
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    status, output = run(pip(venv, "install", "--quiet", *offline, "--editable", str(project)))
    if status:
        raise failure("the project can't be installed into its environment", output, venv.parent)


def set_up(project: Path, lock: Path, torch_index: str, need_gib: float, same_python: bool) -> None:
    """Bring `.venv` under the project to the state that the lock file describes."""
    venv = project / ".venv"
    reason = reason_to_build(venv, lock, same_python)
    package = digest(project / "pyproject.toml")
    if reason is None and read_stamp(venv).get("package") == package:
        return
    if reason is not None:
        check_python()
        check_disk(project, need_gib)
        say(f"building {venv} ({reason}); this takes a minute or two")
        build(venv, lock, torch_index)
    install_package(venv, project)
    python = version_of(venv / "bin" / "python") or ""
    write_stamp(venv, {"path": str(venv), "python": python, "lock": digest(lock), "package": package})
    say(f"{venv} is complete (Python {python})")


def main() -> int:
    """Read the command line, set up, and end with a message instead of a traceback."""
    parser = argparse.ArgumentParser(description=__doc__)
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--project", type=Path, default=root, help="folder of pyproject.toml and .venv")
    parser.add_argument("--lock", type=Path, default=root / "envs" / "steer.lock.txt", help="exact pins")
    parser.add_argument(
        "--torch-index", default="", help="a further package index, for another build of torch"
    )
    parser.add_argument("--need-gib", type=float, default=NEED_GIB, help="free disk space asked for")
    parser.add_argument("--same-python", action="store_true", help="rebuild what another Python version made")
    arguments = parser.parse_args()
    try:
        set_up(
            arguments.project.resolve(),
            arguments.lock.resolve(),
            arguments.torch_index,
            arguments.need_gib,
            arguments.same_python,
        )
    except SetupError as error:
        print("\n".join(error.lines), file=sys.stderr)
        return 1
    except OSError as error:
        print(
            "\n".join(failure("the set-up stopped", f"ERROR {error}", arguments.project).lines),
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
