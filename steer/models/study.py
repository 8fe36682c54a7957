"""Open a model under study: the checkpoint that `model.json` speaks of, proved and ready."""

import os
from pathlib import Path

import torch

from steer.artifacts.facts import ModelFacts, read_facts
from steer.config import ModelSettings
from steer.errors import SteerError
from steer.models.loading import LoadedModel, load_checkpoint
from steer.models.proof import prove


def checkpoint_files(folder: Path | str) -> dict[str, int]:
    """Name and size, in bytes, of every file of a checkpoint."""
    members = sorted(member for member in Path(folder).rglob("*") if member.is_file())
    return {str(member.relative_to(folder)): member.stat().st_size for member in members}


def set_threads(threads: int | None) -> None:
    """Fix the number of CPU threads; another number gives other last bits."""
    torch.set_num_threads(threads or os.cpu_count() or 1)


def open_checkpoint(folder: Path | str, settings: ModelSettings) -> LoadedModel:
    """Load a checkpoint as its settings say, and prove its layout.

    Raises:
        SteerError: see `load_checkpoint` and `prove`.
    """
    set_threads(settings.threads)
    loaded = load_checkpoint(folder, settings.dtype, settings.device, settings.system_prompt)
    prove(loaded)
    return loaded


def open_study(facts_path: Path | str, settings: ModelSettings) -> tuple[LoadedModel, ModelFacts]:
    """Load the model that `model.json` describes.

    Raises:
        SteerError: the checkpoint is not the one that was resolved, can't be loaded, or fails the proof.
    """
    facts = read_facts(facts_path)
    if checkpoint_files(facts.path) != facts.files:
        raise SteerError(
            facts.path,
            f"its files are not those that {facts_path} was resolved from",
            f"remove {facts_path} and run again, so that everything behind it is made anew",
        )
    return open_checkpoint(facts.path, settings), facts
