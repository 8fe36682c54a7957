"""Which of a processor's instructions are computed with.

The libraries take the widest that a processor has, and sum in another order for each: the same seed made
another embedded model on every kind of machine, and which of its directions carry refusal is partly chance.
Embedded models are trained and run with instructions that nearly all x86 processors share. MKL promises
equal sums by that on Intel's processors; on those of others it has its own choice of code, with every sum in
one order, so another vendor's may still make another model. Real models get the fastest there are.
"""

import os
import sys
from pathlib import Path

PROCESSOR = Path("/proc/cpuinfo")
SHARED = "avx2"
# Of ATen, MKL (`COMPATIBLE`, the same on all vendors' processors, makes training take 1.6 times as long) and
# oneDNN.
SETTINGS = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2,STRICT", "ONEDNN_MAX_CPU_ISA": "AVX2"}


def use_shared_instructions(processor: Path = PROCESSOR) -> bool:
    """Have torch compute with instructions that machines share; before it is imported, or it is too late.

    What the environment says already is kept. A processor that lacks the instructions, or isn't known, is
    left alone.

    Returns:
        Whether torch will be told.
    """
    if "torch" in sys.modules or not _has_them(processor):
        return False
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    return True


def instructions() -> str:
    """What this process computes with, in words for a log."""
    import torch

    own = torch.backends.cpu.get_cpu_capability()
    told = all(os.environ.get(name) == value for name, value in SETTINGS.items())
    return f"{own}, as other machines have it" if told else f"{own}, the widest of this machine"


def _has_them(processor: Path) -> bool:
    try:
        lines = processor.read_text().splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return SHARED in flags
