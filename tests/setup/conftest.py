import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.wheels import write_wheel

ROOT = Path(__file__).resolve().parents[2]

PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
# A build backend of the standard library alone: the tiny projects of these tests fetch nothing.
BACKEND = """\
import sys
from pathlib import Path

sys.path.insert(0, {root!r})
from tests.wheels import write_wheel


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    files = {{"project.pth": str(Path.cwd())}}
    return write_wheel(Path(wheel_directory), "project", files).name
"""
# Stands in for Snakemake: writes down how it was called, and makes the report if asked to.
FLOW = """\
import pathlib, sys
with open("calls", "a") as calls:
    print(*sys.argv[1:], file=calls)
if "--report" in sys.argv:
    pathlib.Path(sys.argv[-1]).write_text("report")
"""


class Project:
    """A tiny project with this one's Makefile and set-up, in a folder whose name has a blank.

    Attributes:
        root: its folder.
        venv: its virtual environment.
        lock: its exact pins, of one package that lies on disk.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.lock = root / "envs" / "steer.lock.txt"
        wheels = root / "wheels"
        (root / "envs").mkdir(parents=True)
        wheels.mkdir()
        shutil.copy(ROOT / "Makefile", root)
        shutil.copy(ROOT / "envs" / "install.py", root / "envs")
        (root / "pyproject.toml").write_text(PYPROJECT)
        (root / "backend.py").write_text(BACKEND.format(root=str(ROOT)))
        commands = {"tiny-1.0.dist-info/entry_points.txt": "[console_scripts]\nsnakemake = tiny:main\n"}
        # `python -m steer prefetch` needs a package of that name.
        package = {"steer/__init__.py": "", "steer/__main__.py": FLOW}
        write_wheel(wheels, "tiny", {"tiny.py": f"def main():\n    exec({FLOW!r})\n", **package, **commands})
        self.lock.write_text(f"--no-index\n--find-links {wheels.as_uri()}\ntiny==1.0\n")

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command in the project's folder."""
        return subprocess.run(
            [str(word) for word in command],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def make(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run make with the Python of the tests."""
        given = any(word.startswith("PYTHON=") for word in words)
        return self.run("make", *words, *([] if given else [f"PYTHON={sys.executable}"]))

    def set_up(self, *words: str, python: str | Path = sys.executable) -> subprocess.CompletedProcess[str]:
        """Run the set-up, without asking for the disk space of the real one."""
        return self.run(python, "envs/install.py", "--need-gib", "0.1", *words)


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    """A project that was never set up."""
    return Project(tmp_path / "a project")


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that is set up; a test that harms it has it repaired."""
    made = Project(tmp_path_factory.mktemp("setup") / "a project")
    done = made.set_up()
    assert done.returncode == 0, done.stdout + done.stderr
    return made


@pytest.fixture
def old_python(tmp_path: Path) -> Path:
    """A Python that says it is 3.9."""
    return fake_python(
        tmp_path, "sys.version_info = (3, 9, 1, 'final', 0)\nplatform.python_version = lambda: '3.9.1'"
    )


def fake_python(folder: Path, change: str) -> Path:
    """A Python that runs `change` before the script that it is given."""
    prelude = folder / "prelude.py"
    run_script = "runpy.run_path(sys.argv[0], run_name='__main__')"
    prelude.write_text(f"import platform, runpy, sys\n{change}\ndel sys.argv[0]\n{run_script}\n")
    wrapper = folder / "python"
    python = f'exec "{sys.executable}"'
    # `-c` is how the Makefile and the set-up ask for a version.
    wrapper.write_text(f'#!/bin/sh\nif [ "$1" = -c ]; then {python} "$@"; fi\n{python} "{prelude}" "$@"\n')
    wrapper.chmod(0o755)
    return wrapper
