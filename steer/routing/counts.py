"""How often the tokens of each prompt chose each expert, read out of an activation file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from steer.artifacts.activations import ActivationFile
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


def read_side(path: Path, prompts: Sequence[Prompt], name: str, model: str) -> tuple[Side, ActivationFile]:
    """Count over the training prompts of a set; the file is closed again and kept for its attributes.

    Raises:
        SteerError: the file can't be used or is of other prompts, the model has no MoE layers, or the
            set has no training prompts.
    """
    with ActivationFile(path, model=model, prompt_ids=[prompt.id for prompt in prompts]) as file:
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
        side = Side(
            name=name,
            prompts=tuple(prompts[row] for row in rows),
            chosen=_counts(file, "expert_count", rows),
            strongest=_counts(file, "strongest_count", rows),
            tokens=file.values("token_count", rows).astype(np.int64),
        )
    return side, file


def aligned(first: Side, second: Side) -> Side:
    """Side 2 of a paired contrast in the order of side 1, prompt by prompt of one `pair`.

    Raises:
        SteerError: a prompt has no pair, shares it with another of its set, or has no partner.
    """
    rows = [_by_pair(side) for side in (first, second)]
    alone = sorted(rows[0].keys() ^ rows[1].keys())
    if alone:
        missing = second.name if alone[0] in rows[0] else first.name
        raise SteerError(
            f"pair `{alone[0]}`",
            f"has no training prompt in set `{missing}`",
            "draw both sets of a paired contrast from the same pairs, with the same sizes",
        )
    order = [rows[1][pair] for pair in rows[0]]
    return Side(
        name=second.name,
        prompts=tuple(second.prompts[row] for row in order),
        chosen=second.chosen[order],
        strongest=second.strongest[order],
        tokens=second.tokens[order],
    )


def _by_pair(side: Side) -> dict[str, int]:
    rows: dict[str, int] = {}
    for row, prompt in enumerate(side.prompts):
        if not prompt.pair or rows.setdefault(prompt.pair, row) != row:
            cause = f"has the pair `{prompt.pair}` of another prompt" if prompt.pair else "has no pair"
            raise SteerError(
                f"set `{side.name}`, prompt `{prompt.id}`", cause, "give each line a `pair` of its own"
            )
    return rows


def _counts(file: ActivationFile, name: str, rows: Sequence[int]) -> Counts:
    return np.concatenate([block.reshape(len(block), -1) for block in file.blocks(name, rows)])
