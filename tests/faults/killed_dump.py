"""Dump activations again and again, killed each time after some writes: CHECKPOINT OUT WRITES…"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from steer.activations import dump
from steer.artifacts.hdf5 import Sink
from steer.config import ActivationSettings, ModelSettings
from steer.models.loading import LoadedModel, load_checkpoint
from tests.activation_sets import facts_of, make_prompts

PROMPTS = make_prompts(40)
SETTINGS = ActivationSettings()
MODEL = ModelSettings(path="unused", batch_size=8)


def kill_after(writes: int) -> None:
    """Let this process kill itself in the middle of its work."""
    write = Sink.write
    done = 0

    def counted(sink: Sink, data: Any) -> int:
        nonlocal done
        done += 1
        if done > writes:
            os.kill(os.getpid(), signal.SIGKILL)
        return write(sink, data)

    Sink.write = counted  # type: ignore[method-assign]


def killed_run(loaded: LoadedModel, out: Path, writes: int) -> int:
    """Dump in a process of its own; returns how it ended, as `waitpid` reports it."""
    child = os.fork()
    if child == 0:
        kill_after(writes)
        dump(loaded, facts_of(loaded), PROMPTS, out, MODEL, SETTINGS)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def main(checkpoint: str, out: str, *writes: str) -> None:
    """Print after each run the signal that ended it and the parts that it left."""
    torch.set_num_threads(1)
    loaded = load_checkpoint(checkpoint)
    for count in writes:
        status = killed_run(loaded, Path(out), int(count))
        parts = len(list(Path(out).parent.glob(".*.parts/[!.]*.h5")))
        print(os.WTERMSIG(status), parts, Path(out).exists(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
