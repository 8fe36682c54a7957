"""A set recorded by two processes, a shard each, and gathered, against one process; each loads the model."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from bench.models import mid_checkpoint, prompts
from bench.timing import Line, rate, seconds
from steer.activations import dump_activations, gather
from steer.artifacts.facts import write_facts
from steer.artifacts.files import remove, write_jsonl
from steer.artifacts.shards import Shard
from steer.config import ActivationSettings, ModelSettings
from steer.models.loading import load_checkpoint
from steer.models.study import checkpoint_files
from tests.activation_sets import facts_of

PROMPTS, ROUNDS, WORKERS = 128, 2, 2
SETTINGS = ActivationSettings()


def lines(folder: Path) -> Iterator[Line]:
    """Prompts per second; on two cores the most that can come of it is two."""
    place = folder / "shards"
    checkpoint = mid_checkpoint(folder)
    facts = facts_of(load_checkpoint(checkpoint))
    facts = replace(facts, path=str(checkpoint), files=checkpoint_files(checkpoint))
    write_facts(place / "model.json", facts, {})
    write_jsonl(place / "set.jsonl", [asdict(prompt) for prompt in prompts(PROMPTS)])
    shards = [place / f"{Shard(number, WORKERS)}.h5" for number in range(1, WORKERS + 1)]

    def alone() -> None:
        remove(place / "whole.h5")
        _work(folder, place / "whole.h5")

    def shared() -> None:
        for path in (*shards, place / "gathered.h5"):
            remove(path)
        _work(folder, *shards)
        files = (place / "model.json", place / "set.jsonl", shards, place / "gathered.h5")
        gather(*files, _model(folder), SETTINGS)

    taken = seconds({"naive": alone, "shards": shared}, ROUNDS)
    assert (place / "gathered.h5").read_bytes() == (place / "whole.h5").read_bytes()
    yield rate(f"mid: {WORKERS} shards / one process", "prompts/s", PROMPTS, taken, "shards", "reported")


def _model(folder: Path) -> ModelSettings:
    return ModelSettings(path=str(mid_checkpoint(folder)), batch_size=32)


def _work(folder: Path, *outs: Path) -> None:
    """A process for each file, all at once."""
    command = (sys.executable, "-m", "bench.shards", str(folder))
    running = [subprocess.Popen([*command, str(out)], stderr=subprocess.DEVNULL) for out in outs]
    assert not any(process.wait() for process in running)


def main(folder: Path, out: Path) -> None:
    """Record one file, a shard if it is named like one."""
    shard = Shard.parse(out.stem) if "-of-" in out.stem else None
    files = (out.parent / "model.json", out.parent / "set.jsonl", out)
    dump_activations(*files, _model(folder), SETTINGS, shard)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
