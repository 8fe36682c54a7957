"""Directions of all experts from one capture pass, against a forced pass for every expert.

`python -m bench.experts FOLDER` prints seconds and memory (MiB) for the layout of Qwen3-30B-A3B: the peak
of the process's own memory, and the peak with the pages of the checkpoint that loading maps, which the
system takes back when it needs them.
"""

import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.timing import Line
from steer.activations import dump
from steer.artifacts.activations import ActivationFile
from steer.artifacts.files import write_json
from steer.artifacts.prompts import Prompt
from steer.config import ActivationSettings, ModelSettings
from steer.directions.experts import expert_directions
from steer.directions.inputs import Reader, rows_of
from steer.models.batching import by_length
from steer.models.capture import capture
from steer.models.hooks import hooked
from steer.models.loading import LoadedModel, load_checkpoint
from tests.activation_sets import facts_of
from tests.tiny import save_checkpoint

PROMPTS, BATCH, SAMPLE = 256, 32, ((2, 5), (13, 60))
OLMOE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 128,
    "num_hidden_layers": 16,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "initializer_range": 0.05,
}
QWEN: dict[str, Any] = {
    **OLMOE,
    "num_hidden_layers": 48,
    "moe_intermediate_size": 96,
    "head_dim": 32,
    "num_key_value_heads": 4,
    "num_experts": 128,
}


def _prompts() -> list[Prompt]:
    texts = [f"{'abcdef '[index % 7] * (10 + index * 7 % 30)} {index}" for index in range(PROMPTS)]
    labels: tuple[Any, Any] = ("harmful", "harmless")
    return [Prompt(f"p{index}", text, labels[index % 2], "train") for index, text in enumerate(texts)]


def _record(folder: Path, loaded: LoadedModel) -> tuple[Path, Path]:
    """The activation file of the prompts, and which of them each class uses."""
    prompts, out = _prompts(), folder / f"{Path(loaded.name).name}.h5"
    settings = ModelSettings(path="bench", batch_size=BATCH)
    dump(loaded, facts_of(loaded), prompts, out, settings, ActivationSettings())
    record = out.with_suffix(".json")
    ids = {label: [p.id for p in prompts if p.label == label] for label in ("harmful", "harmless")}
    write_json(record, ids)
    return out, record


def _ours(loaded: LoadedModel, path: Path, record: Path) -> dict[str, Tensor]:
    modules = [sites.experts for sites in loaded.sites.layers if sites.experts is not None]
    with ActivationFile(path) as file:
        return expert_directions(modules, Reader([file], rows_of([file], record)), loaded.experts)


def _forced(loaded: LoadedModel, layer: int, expert: int) -> Tensor:
    """The direction of one expert, from passes in which the router is made to choose it alone."""
    bias = torch.full((loaded.experts,), -1e4)
    bias[expert] = 1e4

    def force(_module: Any, _args: Any, output: Any) -> Any:
        assert loaded.sites.rule is not None
        return (output[0], *loaded.sites.rule.route(output[0] + bias))

    prompts = _prompts()
    tokens = [loaded.encode(prompt.text) for prompt in prompts]
    batches = by_length([len(ids) for ids in tokens], [prompt.id for prompt in prompts], BATCH)
    total = torch.zeros(5, loaded.hidden_size, dtype=torch.float64)
    router: Any = loaded.sites.layers[layer].router
    with hooked([(router, "after", force)]), capture(loaded, 5) as recorder:
        for rows in batches:
            loaded.next_token_logits(loaded.batch([tokens[row] for row in rows]))
            outputs = recorder.take().mlp_out[:, layer].double()
            signs = torch.tensor([1.0 if prompts[row].label == "harmful" else -1.0 for row in rows])
            total += torch.einsum("n,npd->pd", signs.double(), outputs)
    return total / (PROMPTS / 2)


def _error(found: Tensor, expected: Sequence[Tensor]) -> float:
    pairs = zip(SAMPLE, expected, strict=True)
    return max(float((found[place].double() - want).norm() / want.norm()) for place, want in pairs)


def lines(folder: Path) -> Iterator[Line]:
    """All experts of a model of OLMoE's depth and count; the naive way is timed on a sample of them."""
    loaded = load_checkpoint(save_checkpoint(folder / "olmoe-16x64", "olmoe", **OLMOE))
    _forced(loaded, *SAMPLE[0])
    start = time.perf_counter()
    path, record = _record(folder, loaded)
    captured = time.perf_counter()
    found = _ours(loaded, path, record)["forced.direction"]
    done = time.perf_counter()
    expected, passes = [], []
    for place in SAMPLE:
        before = time.perf_counter()
        expected.append(_forced(loaded, *place))
        passes.append(time.perf_counter() - before)
    count = found.shape[0] * found.shape[1]
    error = _error(found, expected)
    yield Line(
        f"{count} expert directions (capture {captured - start:.1f} s, experts {done - captured:.1f} s)",
        f"{done - start:.1f} s",
        f"{count} x {passes[0]:.1f} s",
        tuple(count * taken / (done - start) for taken in passes),
        f">= 300; extrapolated from {len(passes)} forced passes, which differ by {error:.0e}",
    )
    yield _large(folder)


def _large(folder: Path) -> Line:
    save_checkpoint(folder / "qwen-48x128", "qwen3_moe", **QWEN)
    command = [sys.executable, "-m", "bench.experts", str(folder)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    seconds, own, mapped = map(float, output)
    return Line(
        f"6144 expert directions, 48 x 128 layout ({seconds:.1f} s)",
        f"{own:.0f} MiB",
        "4096 MiB",
        (4096 / own,),
        f">= 1: own peak memory, loading included; {mapped:.0f} MiB with mapped pages of the checkpoint",
    )


class Peak(threading.Thread):
    """Watches the process's own memory: what it allocated, without mapped files."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.kib, self.done = 0, threading.Event()

    def run(self) -> None:
        """Look every hundredth of a second, where the system tells (Linux)."""
        status = Path("/proc/self/status")
        while status.is_file() and not self.done.wait(0.01):
            found = re.search(r"RssAnon:\s+(\d+)", status.read_text())
            self.kib = max(self.kib, int(found[1]) if found else 0)


def main(folder: Path) -> None:
    """Capture and directions of the large layout, in a process of its own."""
    peak = Peak()
    peak.start()
    loaded = load_checkpoint(folder / "qwen-48x128")
    path, record = _record(folder, loaded)
    start = time.perf_counter()
    _ours(loaded, path, record)
    taken = time.perf_counter() - start
    peak.done.set()
    # Linux counts in KiB, macOS in bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(f"{taken:.2f} {peak.kib / 2**10 or most:.0f} {most:.0f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
