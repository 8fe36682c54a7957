"""A table of scored candidates, and the choice made from it."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steer.artifacts.files import Row, remove, write_csv, write_json
from steer.errors import SteerError

log = logging.getLogger(__name__)
NEAREST = 3


def within(layer: int, layers: int, prune_layers: float) -> bool:
    """Whether a layer is before the pruned last ones: l < (1 − share)·L (Arditi et al., appendix C)."""
    return layer < (1.0 - prune_layers) * layers


def rank(rows: list[Row], by: str, *, largest: bool) -> list[Row]:
    """Number the `kept` rows from the best, mark the first `chosen`, and return them in order.

    Ties go to the earlier layer and the later position. A score that is not finite can't be ranked.
    """
    sign = -1.0 if largest else 1.0
    for row in rows:
        if row["status"] == "kept" and not math.isfinite(row[by]):
            row["status"] = "not finite"
    kept = [row for row in rows if row["status"] == "kept"]
    kept.sort(key=lambda row: (sign * row[by], row["layer"], -row["position"]))
    for number, row in enumerate(kept, 1):
        row["rank"] = number
    for row in kept[:1]:
        row["status"] = "chosen"
    return kept


def publish(
    out: Path,
    rows: Sequence[Row],
    kept: Sequence[Row],
    why: str,
    nearest: Sequence[str],
    provenance: Mapping[str, Any],
) -> None:
    """Write `<out>.csv` with every candidate and `<out>.json` with the choice.

    Raises:
        SteerError: no candidate is left; the table is kept as `<out>.rejected.csv` and the nearest
            candidates are named.
    """
    columns = list(rows[0])
    rejected = out.with_suffix(".rejected.csv")
    remove(rejected)
    if not kept:
        write_csv(rejected, rows, columns)
        raise SteerError(
            out.name,
            f"every candidate is filtered out (table: {rejected}); nearest: {'; '.join(nearest[:NEAREST])}",
            f"loosen the thresholds of `selection.{out.name}`",
        )
    write_csv(out.with_suffix(".csv"), rows, columns)
    places = [{"layer": row["layer"], "position": row["position"]} for row in kept]
    record = {"choice": places[0], "candidates": places, "why": why, "provenance": dict(provenance)}
    write_json(out.with_suffix(".json"), record)
    log.info("%s: layer %d, position %d: %s", out.name, *places[0].values(), why)
