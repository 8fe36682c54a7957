"""The plan's time formula against measured runs, on a device whose row of facts is measured beside them."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from bench.models import mid_checkpoint, token_rows
from bench.timing import Line
from steer.models.decoding import generate
from steer.models.interventions import Arm
from steer.models.loading import LoadedModel, load_checkpoint
from steer.plan.anatomy import Anatomy, count
from steer.plan.gpus import Gpu, pass_seconds, writing_seconds
from tests.tiny import save_checkpoint

ROUNDS, BATCHES, BATCH, WRITTEN = 3, 4, 32, 16
SIDE, WIDE = 1024, 8192


def lines(folder: Path) -> Iterator[Line]:
    """Planned time over that of a run: prompts read, then replies written."""
    loaded = load_checkpoint(mid_checkpoint(folder))
    thin = load_checkpoint(save_checkpoint(folder / "thin", "olmoe", num_hidden_layers=8, num_experts=32))
    anatomy, rows = count(loaded.model, loaded.experts), token_rows(loaded, BATCH)
    read, written = BATCHES * sum(map(len, rows)), BATCH * WRITTEN
    found = [_round(loaded, thin, anatomy, rows) for _ in range(ROUNDS + 1)][1:]
    for place, what in enumerate((f"mid: {read} tokens read", f"mid: {written} tokens written")):
        planned, taken = ([pair[place][side] for pair in found] for side in (0, 1))
        ratios = tuple(ours / theirs for ours, theirs in zip(planned, taken, strict=True))
        told = (f"{min(planned):.2f} s plan", f"{min(taken):.2f} s run")
        yield Line(f"{what}, planned / measured", *told, ratios, "0.5 to 2")


def _round(
    loaded: LoadedModel, thin: LoadedModel, anatomy: Anatomy, rows: list[list[int]]
) -> list[tuple[float, float]]:
    """Planned and measured seconds of reading and of writing, all of one moment of the machine."""
    here = cpu(thin, rows)
    tokens = BATCHES * sum(map(len, rows))

    def read() -> None:
        for _ in range(BATCHES):
            loaded.next_token_logits(loaded.batch(rows))

    reading = _seconds(read)
    writing = _seconds(lambda: generate(loaded, rows, [Arm("none")] * BATCH, WRITTEN))
    prompt = pass_seconds(anatomy, 1, sum(map(len, rows)), "float32", here)
    # The first token of a reply comes out of the pass over its prompt.
    after = writing_seconds(anatomy, BATCH * (WRITTEN - 1), BATCH, "float32", here)
    return [(pass_seconds(anatomy, BATCHES, tokens, "float32", here), reading), (prompt + after, writing)]


def cpu(thin: LoadedModel, rows: list[list[int]]) -> Gpu:
    """This machine's row: a product of matrices, a product with a vector, and layers too thin to matter."""
    square, wide = torch.randn(SIDE, SIDE), torch.randn(WIDE, WIDE)
    vector, batch = torch.randn(WIDE), thin.batch([row[:1] for row in rows[:1]])
    flops = 2 * SIDE**3 / _seconds(lambda: square @ square)
    bandwidth = wide.nbytes / _seconds(lambda: wide @ vector)
    latency = _seconds(lambda: thin.next_token_logits(batch)) / len(thin.sites.layers)
    return Gpu(0, flops, bandwidth, latency)


def _seconds(work: Callable[[], object]) -> float:
    """The shorter of two times."""
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)
