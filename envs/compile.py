"""Compile the lock: install the direct dependencies afresh, and write down exactly what came.

Run by `make lock`, on the oldest supported Python. Writes steer.lock.txt and its conda face, steer.yaml.
"""

import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ENVS = Path(__file__).resolve().parent
HEADER = """\
# Exact pins of everything, for Python 3.11 to 3.13 on Linux and macOS (on 3.14, immutables must be compiled).
# Compiled by `make lock` on Python {python}: a fresh virtual environment, `pip install` of steer.in and
# dev.in, `pip freeze`.
-c cuda.txt
"""
CONDA = """\
# The lock as a conda environment, for `snakemake --sdm conda`. Compiled by `make lock`.
name: steer
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python={python}
  - pip
  - pip:
"""
PROVIDED = ("pip", "nvidia-", "triton", "cuda-")


def freeze(python: Path) -> list[str]:
    """The pins of an environment, without local version labels such as `+cpu`."""
    command = [str(python), "-m", "pip", "freeze", "--all"]
    frozen = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [line.split("+", maxsplit=1)[0] for line in frozen if not line.startswith(PROVIDED)]


def conda_face(pins: list[str], python: str) -> str:
    """The pins as a conda environment file."""
    return CONDA.format(python=python) + "".join(f"      - {pin}\n" for pin in pins)


def main() -> None:
    """Compile both files."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder) / "bin" / "python"
        direct = ["-r", str(ENVS / "steer.in"), "-r", str(ENVS / "dev.in")]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *direct], check=True)
        pins = freeze(python)
    version = platform.python_version()
    (ENVS / "steer.lock.txt").write_text(
        HEADER.format(python=version) + "\n".join(pins) + "\n", encoding="utf-8"
    )
    minor = ".".join(version.split(".")[:2])
    (ENVS / "steer.yaml").write_text(conda_face(pins, minor), encoding="utf-8")


if __name__ == "__main__":
    main()
