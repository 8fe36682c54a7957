"""How often the tokens of each prompt chose each expert, read out of an activation file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from steer.artifacts.activations import ActivationFile, Array
from steer.artifacts.prompts import Prompt
from steer.errors import SteerError

Counts = Int[np.ndarray, "prompts experts"]


@dataclass(frozen=True)
class Side:
    """One side of a contrast; the experts of all MoE layers stand side by side, layer by layer.

    Attributes:
        name: of the prompt set.
        prompts: the prompts that are counted.
        chosen: tokens of each prompt that chose each expert (top-k).
        strongest: tokens of each prompt whose strongest expert each one is (top-1).
        tokens: tokens of each prompt that are counted.
    """

    name: str
    prompts: tuple[Prompt, ...]
    chosen: Counts
    strongest: Counts
    tokens: Int[np.ndarray, " prompts"]


def read_side(path: Path, prompts: Sequence[Prompt], name: str) -> tuple[Side, ActivationFile]:
    """Count over the training prompts of a set; the file is closed again and kept for its attributes.

    Raises:
        SteerError: the file can't be used or is of other prompts, the model has no MoE layers, or the
            set has no training prompts.
    """
    with ActivationFile(path, prompt_ids=[prompt.id for prompt in prompts]) as file:
        if not file.moe_layers:
            raise SteerError(
                str(path),
                "is of a model without MoE layers, so there is no routing to contrast",
                "use a model with experts; a dense one keeps the arms on its residual stream",
            )
        rows = file.rows(split="train")
        if not rows:
            raise SteerError(
                f"set `{name}`",
                "has no prompts in the split `train`, so one side of the contrast is empty",
                f"give it prompts to train on (`sets.{name}.train`)",
            )
        experts = file.shape("router_logits")[-1]
        chosen, strongest = zip(*_count(file, rows, experts), strict=True)
        side = Side(
            name=name,
            prompts=tuple(prompts[row] for row in rows),
            chosen=np.concatenate(chosen),
            strongest=np.concatenate(strongest),
            tokens=file.values("token_count", rows).astype(np.int64),
        )
    return side, file


def _count(file: ActivationFile, rows: Sequence[int], experts: int) -> Iterator[tuple[Counts, Counts]]:
    """Counts of a block of prompts at a time: top-k and top-1."""
    for index in file.blocks("expert_index", rows):
        yield tally(index, experts), tally(index[..., :1], experts)


def tally(index: Int[Array, "prompts layers positions chosen"], experts: int) -> Counts:
    """How often each expert of each layer occurs among the chosen ones of each prompt."""
    prompts, layers = index.shape[:2]
    place = np.arange(prompts * layers).reshape(prompts, layers, 1, 1) * experts + index
    counts = np.bincount(place.ravel(), minlength=prompts * layers * experts)
    return counts.reshape(prompts, layers * experts).astype(np.int16)
