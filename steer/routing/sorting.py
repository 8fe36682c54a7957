"""Stage `sorting`: which experts recognise harmful prompts, and which control the reply.

After SAFEx (arXiv 2506.17368), which calls them harmful content detection and harmful response control
experts and keeps those that stay selected over resamples. An expert is called by side 1 of a contrast when
its risk difference is positive, significant and stable; called by harmful prompts it recognises them, called
by the tokens of a refusal it controls the reply.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from steer.artifacts.files import Row, write_csv, write_json
from steer.artifacts.provenance import file_digest, provenance
from steer.artifacts.routing import Column, read_routing
from steer.config import RoutingSettings
from steer.errors import SteerError

log = logging.getLogger(__name__)
KEPT = ("risk_difference", "q_value", "prompt_stability")
GROUPS = ("both", "recognise", "control", "neither")


@dataclass(frozen=True)
class Thresholds:
    """When a contrast is taken to call an expert: largest q-value, and smallest stability over resamples."""

    q_value: float
    stability: float


def write_experts(recognise: Path, control: Path, out: Path, settings: RoutingSettings) -> None:
    """Write `experts.csv`, a row per layer and expert with its group and the numbers behind it.

    Args:
        recognise: routing table of the contrast of prompts.
        control: routing table of the contrast of replies.
        out: the CSV file; what it was made of stands beside it (`.json`).
        settings: the thresholds.

    Raises:
        SteerError: a table can't be used, or the two are of other experts.
    """
    tables = {"recognise": read_routing(recognise), "control": read_routing(control)}
    for key in ("layer", "expert"):
        if not np.array_equal(tables["recognise"][key], tables["control"][key]):
            cause = f"has other experts than {recognise}"
            raise SteerError(str(control), cause, "make both tables for one model")
    thresholds = Thresholds(settings.q_value, settings.stability)
    rows = table(tables, thresholds)
    write_csv(out, rows, list(rows[0]))
    counts = {group: sum(row["group"] == group for row in rows) for group in GROUPS}
    log.info("%s", ", ".join(f"{group} {count}" for group, count in counts.items()))
    inputs = {"recognise": file_digest(recognise), "control": file_digest(control)}
    origin = provenance("steer.routing.sorting", vars(thresholds), inputs)
    record = {"thresholds": vars(thresholds), "counts": counts, "provenance": origin}
    write_json(out.with_suffix(".json"), record)


def called(contrast: Mapping[str, Column], thresholds: Thresholds) -> Bool[np.ndarray, " experts"]:
    """Whether side 1 calls each expert: positive, significant and stable. What is unknown is not."""
    return np.asarray(
        (contrast["risk_difference"] > 0)
        & (contrast["q_value"] <= thresholds.q_value)
        & (contrast["prompt_stability"] >= thresholds.stability)
    )


def table(tables: Mapping[str, Mapping[str, Column]], thresholds: Thresholds) -> list[Row]:
    """A row per expert: layer, expert, group, and the numbers of both contrasts."""
    found = {name: called(contrast, thresholds) for name, contrast in tables.items()}
    groups = np.select(
        [found["recognise"] & found["control"], found["recognise"], found["control"]], GROUPS[:3], GROUPS[3]
    )
    first = tables["recognise"]
    return [
        {
            "layer": int(first["layer"][at]),
            "expert": int(first["expert"][at]),
            "group": str(groups[at]),
            **{
                f"{name}_{column}": float(contrast[column][at])
                for name, contrast in tables.items()
                for column in KEPT
            },
        }
        for at in range(len(groups))
    ]
