import re
from importlib.metadata import requires
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ENVS = Path(__file__).resolve().parents[2] / "envs"


def _lines(name: str) -> list[str]:
    lines = (line.split(" #")[0].strip() for line in (ENVS / name).read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _pins() -> dict[str, str]:
    pairs = (line.split("==") for line in _lines("steer.lock.txt") if not line.startswith("-c"))
    return {canonicalize_name(name): version for name, version in pairs}


def test_the_lock_pins_every_package_exactly() -> None:
    assert all(
        re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][\w.]*", line)
        for line in [*_lines("steer.lock.txt")[1:], *_lines("cuda.txt")]
    )
    assert _lines("steer.lock.txt")[0] == "-c cuda.txt"


def test_every_direct_dependency_is_pinned_within_its_bounds() -> None:
    pins = _pins()
    for line in [*_lines("steer.in"), *_lines("dev.in")]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), line


def test_what_the_pinned_packages_need_is_pinned_too() -> None:
    pins = _pins()
    for name in pins:
        for line in requires(name) or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in {*pins, *map(canonicalize_name, _constraints())}, (
                    line
                )


def _constraints() -> list[str]:
    return [line.split("==")[0] for line in _lines("cuda.txt")]


def test_the_conda_face_lists_the_pins_of_the_lock() -> None:
    conda = yaml.safe_load((ENVS / "steer.yaml").read_text())
    assert conda["dependencies"][-1]["pip"] == _lines("steer.lock.txt")[1:]
