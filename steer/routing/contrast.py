"""Stage `routing`: how differently the two sides of a contrast are routed."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from steer.artifacts.activations import ActivationFile
from steer.artifacts.facts import read_facts
from steer.artifacts.files import write_json
from steer.artifacts.prompts import read_prompts
from steer.artifacts.provenance import digest, provenance
from steer.artifacts.routing import Column, write_routing
from steer.config import RoutingContrast, RoutingSettings
from steer.errors import SteerError
from steer.routing.counts import aligned, read_side
from steer.routing.statistics import Method, Sides, statistics

SHOWN = 5
"""Experts that the log names."""

log = logging.getLogger(__name__)


def write_contrast(
    contrast: RoutingContrast,
    facts_path: Path,
    activations: Sequence[Path],
    prompts: Sequence[Path],
    out: Path,
    settings: RoutingSettings,
    seed: int,
) -> None:
    """Write the routing table of a contrast, and beside it (`.json`) what it was made of.

    Args:
        contrast: the sets of its sides.
        facts_path: `model.json` of the model.
        activations: the activation files of side 1 and side 2.
        prompts: their prompt sets.
        out: the CSV file; see `steer.artifacts.routing`.
        settings: how it is judged.
        seed: of everything drawn.

    Raises:
        SteerError: a file can't be used, the two are of another model or of different positions, the model
            has no MoE layers, one side is empty, or a prompt of a paired contrast has no partner.
    """
    facts = read_facts(facts_path)
    sets = [read_prompts(path) for path in prompts]
    (first, file), (second, other) = (
        read_side(path, rows, set_name, facts.digest)
        for path, rows, set_name in zip(activations, sets, contrast.sets, strict=True)
    )
    _check_alike(file, other)
    if contrast.paired:
        second = aligned(first, second)
    method = Method(contrast.paired, settings.resamples, settings.confidence, settings.top, seed)
    columns = statistics((first, second), method)
    log.info("%s: %s", out.stem, summary(columns, file.moe_layers))
    write_routing(out, {**places(file.moe_layers, len(columns["p_value"])), **columns})
    inputs = {read.path.stem: digest(read.provenance) for read in (file, other)}
    origin = provenance("steer.routing.contrast", asdict(method), inputs, seed)
    write_json(out.with_suffix(".json"), record((first, second), method, origin))


def _check_alike(first: ActivationFile, second: ActivationFile) -> None:
    for what in ("model", "revision", "positions", "span"):
        found, expected = getattr(second, what), getattr(first, what)
        if found != expected:
            raise SteerError(
                str(second.path),
                f"is of {what} `{found}`, but {first.path} of `{expected}`",
                "read both sets with the same model and settings, over the same kind of tokens",
            )


def record(sides: Sides, method: Method, origin: dict[str, Any]) -> dict[str, Any]:
    """What stands beside the table: the prompts of each side, and how the numbers were made."""
    return {
        "sides": [
            {
                "set": side.name,
                "prompts": [prompt.id for prompt in side.prompts],
                "tokens": int(side.tokens.sum()),
            }
            for side in sides
        ],
        "method": asdict(method),
        "provenance": origin,
    }


def summary(columns: dict[str, Column], moe_layers: Sequence[int]) -> str:
    """One line on the experts with the largest risk differences."""
    place = places(moe_layers, len(columns["risk_difference"]))
    best = np.argsort(-np.abs(columns["risk_difference"]), kind="stable")[:SHOWN]
    return ", ".join(
        f"layer {place['layer'][at]} expert {place['expert'][at]} {columns['risk_difference'][at]:+.3f}"
        f" (q {columns['q_value'][at]:.2g})"
        for at in best
    )


def places(moe_layers: Sequence[int], experts: int) -> dict[str, Column]:
    """Layer and expert of each column of the counts."""
    each = experts // len(moe_layers)
    return {"layer": np.repeat(moe_layers, each), "expert": np.tile(np.arange(each), len(moe_layers))}
