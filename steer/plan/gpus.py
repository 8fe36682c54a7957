"""GPUs and what they can do, and how long a job takes on them."""

import math
from dataclasses import dataclass

from steer.plan.anatomy import Anatomy
from steer.plan.sizes import BYTES, Dtype


@dataclass(frozen=True)
class Gpu:
    """A GPU, as its data sheet says, or another device.

    Attributes:
        memory: bytes.
        flops: dense operations a second in 16 bits.
        bandwidth: bytes a second of its memory.
        latency: seconds that a layer takes however little it is given, in eager mode.
        busy, fast: shares of its operations and of its bandwidth that a model reaches.
    """

    memory: float
    flops: float
    bandwidth: float
    latency: float = 4e-4
    busy: float = 0.35
    fast: float = 0.5


GPUS = {
    "a100-40gb": Gpu(40e9, 312e12, 1.555e12),
    "a100-80gb": Gpu(80e9, 312e12, 2.039e12),
    "h100-80gb": Gpu(80e9, 989e12, 3.35e12),
    "h200-141gb": Gpu(141e9, 989e12, 4.8e12),
    "l40s-48gb": Gpu(48e9, 362e12, 0.864e12),
    "rtx4090-24gb": Gpu(24e9, 165e12, 1.008e12),
}
"""NVIDIA's data sheets, without sparsity, SXM where there are several. Latency and both shares are
assumptions, to be replaced by what a first job measures (its file under benchmarks/)."""

DISK = 2e9
"""Bytes a second that weights are read with, as assumed."""


def pass_seconds(anatomy: Anatomy, passes: int, tokens: int, dtype: Dtype, gpu: Gpu) -> float:
    """Of forward passes over so many tokens in all: latency, and the slower of arithmetic and memory.

    passes · L · latency + max(2 · active · tokens / (busy · operations a second),
    passes · weights that tokens / passes touch / (fast · bandwidth)).
    """
    if not passes:
        # Parts of the model alone, as when experts are applied to recorded inputs.
        return 2 * anatomy.active * tokens / (gpu.busy * gpu.flops)
    arithmetic = 2 * anatomy.active * tokens / (gpu.busy * gpu.flops)
    moved = passes * touched_bytes(anatomy, math.ceil(tokens / passes), dtype) / (gpu.fast * gpu.bandwidth)
    return passes * anatomy.layers * gpu.latency + max(arithmetic, moved)


def touched_bytes(anatomy: Anatomy, tokens: int, dtype: Dtype) -> float:
    """Weights that a pass reads: all but the experts that no token chose.

    With E experts of which each token chooses K as if by chance, a share 1 − (1 − K/E)^tokens is chosen by
    any of them.
    """
    missed = (1 - anatomy.top_k / anatomy.experts) ** tokens if anatomy.experts else 0.0
    return (anatomy.parameters - anatomy.looked_up - anatomy.routed * missed) * BYTES[dtype]


def writing_seconds(anatomy: Anatomy, tokens: int, rows: int, dtype: Dtype, gpu: Gpu) -> float:
    """Of reply tokens, a batch of `rows` at a time: ⌈tokens / rows⌉ passes of a token a row."""
    steps = math.ceil(tokens / rows) if rows else 0
    return pass_seconds(anatomy, steps, tokens, dtype, gpu)


def loading_seconds(weights: int) -> float:
    """Of weights from a disk that gives 2 GB a second."""
    return weights / DISK
