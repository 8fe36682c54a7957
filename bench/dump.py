"""Activation dump, compressed and on disk, against the bare forward pass on the same batches."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.models import mid_checkpoint, prompts
from bench.timing import Line, rate, seconds
from steer.activations import dump, encode, plan
from steer.config import ActivationSettings, ModelSettings
from steer.models.loading import load_checkpoint
from tests.activation_sets import facts_of

PROMPTS, ROUNDS, FEW, MANY = 256, 3, 64, 512
MODEL = ModelSettings(path="bench", batch_size=32)


def lines(folder: Path) -> Iterator[Line]:
    """Prompts per second, and peak memory of eight times the prompts."""
    loaded, rows = load_checkpoint(mid_checkpoint(folder)), prompts(PROMPTS)
    settings = ActivationSettings()
    tokens = encode(loaded, rows, settings.positions, MODEL.max_prompt_tokens)
    parts = plan(tokens, rows, MODEL.batch_size, folder, "bench")

    def forward() -> None:
        for part in parts:
            loaded.next_token_logits(loaded.batch([tokens[row].ids for row in part.rows]))

    facts, out = facts_of(loaded), folder / "bench.h5"

    def dumped() -> None:
        # What is there already would not be made again.
        out.unlink(missing_ok=True)
        dump(loaded, facts, rows, out, MODEL, settings)

    taken = seconds({"naive": forward, "dump": dumped}, ROUNDS)
    yield rate("mid: activation dump / bare forward", "prompts/s", PROMPTS, taken, "dump", ">= 0.9")
    few, many = (_peak(folder, count) for count in (FEW, MANY))
    what = f"mid: peak memory, {MANY} / {FEW} prompts"
    yield Line(what, f"{many:.0f} MiB", f"{few:.0f} MiB", (many / few,), "<= 1.1")


def _peak(folder: Path, count: int) -> float:
    """Peak memory in MiB of a process of its own that dumps so many prompts."""
    command = [sys.executable, "-m", "bench.memory", str(folder), str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])
