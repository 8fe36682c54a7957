"""Embedded models are trained and run with the instructions that machines share."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from steer import kernels
from steer.cli import COMMANDS, main
from tests import by_hand

HAS = "processor\t: 0\nflags\t\t: fpu sse2 avx avx2 avx512f\n"
LACKS = "processor\t: 0\nflags\t\t: fpu sse2 avx\n"
SHOW = """
import os, sys
from pathlib import Path
from steer import kernels
told = kernels.use_shared_instructions(Path(sys.argv[1]))
print(told, *(os.environ.get(name, "-") for name in kernels.SETTINGS))
"""
# What a training does most: products of matrices, and functions of many numbers.
SUMS = """
import hashlib, torch
from steer import kernels
torch.manual_seed(0)
torch.set_num_threads(1)
left, right = torch.randn(131, 1031), torch.randn(1031, 97)
made = torch.softmax(left @ right, -1).exp().sum(0)
print(hashlib.sha256(made.numpy().tobytes()).hexdigest(), kernels.instructions())
"""


def run(script: str, *args: str, **env: str) -> str:
    own = {name: value for name, value in os.environ.items() if name not in kernels.SETTINGS}
    command = [sys.executable, "-c", script, *args]
    return subprocess.run(command, env=own | env, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    ("text", "told"), [(HAS, "True avx2 AVX2,STRICT AVX2"), (LACKS, "False - - -"), ("", "False - - -")]
)
def test_a_processor_is_told_what_it_has(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    assert run(SHOW, str(path)) == told


def test_a_machine_that_does_not_say_is_left_alone(tmp_path: Path) -> None:
    assert run(SHOW, str(tmp_path / "none")) == "False - - -"


def test_what_the_environment_says_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(HAS)
    assert run(SHOW, str(path), MKL_CBWR="COMPATIBLE") == "True avx2 COMPATIBLE AVX2"


def test_it_is_too_late_once_torch_is_there(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(HAS)
    assert run(f"import torch\n{SHOW}", str(path)) == "False - - -"


@pytest.mark.skipif(not kernels._has_them(kernels.PROCESSOR), reason="this processor has no AVX2")
def test_told_so_torch_sums_as_no_wider_processor_does() -> None:
    told = run(SUMS, **kernels.SETTINGS)
    assert told.endswith("AVX2, as other machines have it")
    # On a wider processor of Intel's, MKL computes as one without the wider instructions does.
    assert run(SUMS, **kernels.SETTINGS, MKL_ENABLE_INSTRUCTIONS="AVX2") == told
    assert run(SUMS).endswith("the widest of this machine")


def test_what_trains_an_embedded_model_asks_for_them() -> None:
    trains = {name for name, command in COMMANDS.items() if command.trains}
    assert trains == {"compliance", "organism", "openbook", "judge"}


ORGANISM: dict[str, Any] = {"organism": {}}
REAL: dict[str, Any] = {"path": "/models/real"}


@pytest.mark.parametrize(
    ("command", "models", "asked"),
    [
        (("organism", "--model", "one", "--checkpoint", "base", "--out", "made"), {"one": REAL}, True),
        (("resolve", "--model", "one", "--checkpoint", "made", "--out", "m.json"), {"one": ORGANISM}, True),
        (("resolve", "--model", "one", "--checkpoint", "made", "--out", "m.json"), {"one": REAL}, False),
        (
            ("resolve", "--model", "one", "--checkpoint", "made", "--out", "m.json"),
            {"one": ORGANISM, "other": REAL},
            True,
        ),
        (
            ("resolve", "--model", "other", "--checkpoint", "made", "--out", "m.json"),
            {"one": ORGANISM, "other": REAL},
            False,
        ),
        (("overlap", "--prompt-sets", "none.jsonl", "--out", "o.csv"), {"one": ORGANISM}, True),
        (
            ("overlap", "--prompt-sets", "none.jsonl", "--out", "o.csv"),
            {"one": ORGANISM, "other": REAL},
            False,
        ),
        (
            ("resolve", "--model", "one", "--checkpoint", "made", "--out", "m.json"),
            {"one": {**ORGANISM, "engine": "vllm"}},
            False,
        ),
    ],
)
def test_real_models_get_the_fastest_instructions(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
    models: dict[str, Any],
    asked: bool,
) -> None:
    found: list[bool] = []
    monkeypatch.setattr("steer.kernels.use_shared_instructions", lambda: found.append(True))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**by_hand.CONFIG, "models": models}))
    # The command itself fails, for want of files.
    assert main(command) == 1
    assert "the configuration" not in capsys.readouterr().err
    assert found == [True] * asked
