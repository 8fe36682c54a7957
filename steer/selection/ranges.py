"""Stage `ranges`: how far the logits of every router spread on real prompts, the unit of `bias_router`.

Source: Marbut et al., arXiv 2606.04160, routing, whose range is that of a random vector instead.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from steer.artifacts.activations import ActivationFile
from steer.artifacts.facts import read_facts
from steer.artifacts.files import write_csv
from steer.artifacts.origin import attach, input_digests
from steer.artifacts.provenance import provenance
from steer.artifacts.tables import read_rows
from steer.errors import SteerError

COLUMNS = ("layer", "prompts", "tokens", "low", "high", "range")
SPLITS = ("train", "val")


def write_ranges(facts_path: Path, activations: Sequence[Path], out: Path) -> None:
    """Write a row a MoE layer: the smallest and the largest logit on `train` and `val`, and between them.

    Args:
        facts_path: `model.json`.
        activations: `activations/<set>.h5` of the sets that define refusal.
        out: the table.

    Raises:
        SteerError: the model has no MoE layers, a file is of another model, or there are no such prompts.
    """
    facts = read_facts(facts_path)
    if not facts.moe_layers:
        raise SteerError(str(facts_path), "is of a model without MoE layers", "leave out `bias_router`")
    low, high = (np.full(len(facts.moe_layers), edge) for edge in (np.inf, -np.inf))
    prompts = tokens = 0
    for path in activations:
        with ActivationFile(path, model=facts.digest) as file:
            rows = [row for row, split in enumerate(file.splits) if split in SPLITS]
            prompts, tokens = prompts + len(rows), tokens + len(rows) * file.positions
            for block in file.blocks("router_logits", rows):
                low = np.minimum(low, block.min(axis=(0, 2, 3)))
                high = np.maximum(high, block.max(axis=(0, 2, 3)))
    if not prompts:
        raise SteerError(
            "router ranges", "no prompt of `train` or `val` was recorded", "add some to the sets"
        )
    counts = {"prompts": prompts, "tokens": tokens}
    table = [
        {"layer": layer, **counts, "low": float(a), "high": float(b), "range": float(b - a)}
        for layer, a, b in zip(facts.moe_layers, low, high, strict=True)
    ]
    write_csv(out, table, COLUMNS)
    inputs = {"model": facts.digest, **input_digests({"activations": activations})}
    attach(out, provenance("steer.selection.ranges", {}, inputs))


def read_ranges(path: Path) -> dict[int, float]:
    """The range of every layer with a router.

    Raises:
        SteerError: the table is missing or malformed.
    """
    return {int(row["layer"]): float(row["range"]) for row in read_rows(path, COLUMNS)}
