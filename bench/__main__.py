"""`python -m bench [NAME…]`: print ratios, all or those of some benches, a line at a time.

It asserts nothing, since machines and their neighbours differ.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

# Before torch is imported: threads are fixed, as in the flow's own jobs.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from bench import candidates, dump, experts, flow, plan, proof, shards, steering, sweep, training, vllm
from bench.timing import HEADER, Line

BENCHES: dict[str, Callable[[Path], Iterator[Line]]] = {
    "dump": dump.lines,
    "steering": steering.lines,
    "sweep": sweep.lines,
    "experts": experts.lines,
    "candidates": candidates.lines,
    "proof": proof.lines,
    "plan": plan.lines,
    "shards": shards.lines,
    "training": training.lines,
    "vllm": vllm.tiny,
    "vllm_mid": vllm.mid,
}

# Benches that need an environment and a process of their own, and so are asked for by name, one by one.
APART = ("vllm", "vllm_mid")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=main.__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}; all but those of vLLM by default"
    )
    names = parser.parse_args().names or [name for name in BENCHES if name not in APART]
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        parser.error(f"no bench `{unknown[0]}`; there are {', '.join(BENCHES)}")
    print(HEADER, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            for line in BENCHES[name](Path(folder)):
                print(line, flush=True)
    print("\n" + flow.table())


if __name__ == "__main__":
    main()
