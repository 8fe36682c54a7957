"""`python -m bench.memory FOLDER COUNT`: dump activations and print the peak memory of that, in MiB."""

import ctypes
import re
import resource
import sys
from pathlib import Path

from bench.models import mid_checkpoint, prompts
from steer.activations import dump
from steer.config import ActivationSettings, ModelSettings
from steer.models.loading import load_checkpoint
from tests.activation_sets import facts_of

PROCESS = Path("/proc/self")


def main(folder: Path, count: int) -> None:
    """Dump `count` prompts of the mid model."""
    loaded = load_checkpoint(mid_checkpoint(folder))
    model = ModelSettings(path="bench", batch_size=32)
    _forget_peak()
    dump(loaded, facts_of(loaded), prompts(count), folder / f"{count}.h5", model, ActivationSettings())
    print(_peak())


def _forget_peak() -> None:
    """Start the peak anew where the kernel lets one: that of loading would hide what a dump needs."""
    if PROCESS.is_dir():
        # Memory that loading freed but the allocator kept would hide it too.
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
        (PROCESS / "clear_refs").write_text("5")


def _peak() -> float:
    """Peak memory since then in MiB; since the start of the process outside Linux."""
    if not PROCESS.is_dir():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts in bytes
    found = re.search(r"VmHWM:\s+(\d+) kB", (PROCESS / "status").read_text())
    assert found
    return int(found[1]) / 2**10


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
