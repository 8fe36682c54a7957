"""Generate replies, killed at a given point each time: `killed_generation CHECKPOINT FOLDER POINT…`.

A point is `batch:N`, when the answers of batch N are there but not yet written, or `line:N`, in the middle of
writing the rows of batch N.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from steer import generation
from steer.artifacts.arms import write_arm
from steer.artifacts.journal import Journal
from steer.generation import generate_replies
from steer.models.interventions import Arm, Operation
from steer.models.loading import load_checkpoint
from tests.study import Study, make_study

ARMS = ("baseline", "add")
PROMPTS = 12
LIMIT = 6


def make(folder: Path, checkpoint: str, prompts: int = PROMPTS) -> Study:
    """A study with two arms and batches of two; a third of the prompts is `test`: four, so four batches."""
    study = make_study(folder, load_checkpoint(checkpoint), prompts, batch_size=2)
    vector = study.directions.direction[2, -1]
    for arm in (Arm("baseline"), Arm("add", (Operation("add", "v", 2),), {"v": vector})):
        write_arm(study.path(f"{arm.name}.safetensors"), arm, model="m1", provenance={})
    return study


def answer(study: Study) -> int:
    """Generate all replies of a study; returns how many were made now."""
    arms = [study.path(f"{name}.safetensors") for name in ARMS]
    facts, prompts, out = study.path("model.json"), study.path("harmful.jsonl"), study.path("out.jsonl")
    return generate_replies(facts, prompts, arms, out, study.settings, LIMIT)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(kind: str, number: int) -> None:
    """Let this process kill itself when it comes to a point."""
    seen = 0
    generate, append = generation.generate, Journal._append

    def answering(*given: Any, **options: Any) -> Any:
        nonlocal seen
        seen += 1
        replies = generate(*given, **options)
        if kind == "batch" and seen == number:
            _die()
        return replies

    def writing(journal: Journal, content: bytes) -> None:
        if kind == "line" and seen == number:
            journal._writer.write(content[: len(content) * 2 // 3])
            _die()
        append(journal, content)

    generation.generate = answering
    Journal._append = writing  # type: ignore[method-assign]


def main(checkpoint: str, folder: str, *points: str) -> None:
    """Print after each run the signal that ended it."""
    torch.set_num_threads(1)
    study = make(Path(folder), checkpoint)
    for point in points:
        kind, number = point.split(":")
        child = os.fork()
        if child == 0:
            kill_at(kind, int(number))
            answer(study)
            os._exit(0)
        print(os.WTERMSIG(os.waitpid(child, 0)[1]), study.path("out.jsonl").exists(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
