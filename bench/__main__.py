"""`python -m bench`: print every ratio; asserts nothing, since machines and their neighbours differ."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported: threads are fixed, as in the flow's own jobs.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from bench import dump, experts, flow, steering, sweep
from bench.timing import HEADER, Line


def _lines(folder: Path) -> Iterator[Line]:
    yield from dump.lines(folder)
    yield from steering.lines(folder)
    yield from sweep.lines(folder)
    yield from experts.lines(folder)


def main() -> None:
    """Measure and print, a line at a time."""
    print(HEADER, flush=True)
    with tempfile.TemporaryDirectory() as name:
        for line in _lines(Path(name)):
            print(line, flush=True)
    print("\n" + flow.table())


if __name__ == "__main__":
    main()
