"""The scorecard's rows: one detector on one model, held against the truth."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from steer.artifacts.files import Row
from steer.artifacts.tables import read_rows
from steer.scorecard.alarms import raised
from steer.scorecard.ranks import Expert, Scores, average_precision, precision, ranking, ranks
from steer.scorecard.truths import Truth

PLACE = ("layer", "expert")
COLUMNS = (
    *("model", "plant", "seed", "detector", "related", "carriers", "experts"),
    *("precision", "average_precision", "ranks", "decoy_rank"),
    *("top", "top_score", "threshold", "alarms", "found", "false_alarms", "decoy_alarms"),
)


def read_detection(path: Path) -> dict[str, dict[Expert, float]]:
    """Scores of every expert, by detector.

    Raises:
        SteerError: the file is missing or holds no expert.
    """
    rows = read_rows(path, PLACE)
    # The ends of an interval are no detector.
    detectors = [name for name in rows[0] if name not in PLACE and not name.endswith(("_low", "_high"))]
    return {
        name: {(int(row["layer"]), int(row["expert"])): float(row[name] or "nan") for row in rows}
        for name in detectors
    }


def compare(
    model: str,
    truth: Truth,
    detection: Mapping[str, Scores],
    thresholds: Mapping[str, float],
    seed: int | None = None,
) -> Iterator[Row]:
    """A row per detector of one model.

    `alarms` counts experts above the threshold: `found` carriers, and `false_alarms` of the others, decoys
    among them.
    """
    for name, scores in detection.items():
        top = ranking(scores)[0]
        threshold = thresholds.get(name)
        yield {
            "model": model,
            "plant": truth.plant,
            "seed": seed,
            "detector": name,
            "related": name in truth.related,
            "carriers": _names(sorted(truth.carriers)),
            "experts": len(scores),
            "precision": _known(precision(scores, truth.carriers)),
            "average_precision": _known(average_precision(scores, truth.carriers)),
            "ranks": " ".join(map(str, ranks(scores, truth.carriers))),
            "decoy_rank": " ".join(map(str, ranks(scores, truth.decoys))),
            "top": _names([top]),
            "top_score": _known(scores[top]),
            "threshold": threshold,
            "alarms": raised(scores, scores, threshold),
            "found": raised(scores, truth.carriers, threshold) if truth.carriers else None,
            "false_alarms": raised(scores, scores.keys() - truth.carriers, threshold),
            "decoy_alarms": raised(scores, truth.decoys, threshold) if truth.decoys else None,
        }


def _names(experts: Sequence[Expert]) -> str:
    return " ".join(f"{layer}:{expert}" for layer, expert in experts)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
