"""Stage `scorecard`: how well each detector finds the experts in which refusal was put.

A detector gives every expert of a model a score. On models whose carriers are known, ranks are compared
with the truth; on models without a single carrier among the experts, what is asked is whether the
detector raises an alarm. A score is an alarm when it is above the largest that the same detector gives to
any expert of the natural models, which have no planted part.
"""

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from steer.artifacts.facts import read_facts
from steer.artifacts.files import Row, write_csv
from steer.artifacts.origin import attach, input_digests
from steer.artifacts.provenance import provenance
from steer.errors import SteerError

NATURAL = "natural"
PLACE = ("layer", "expert")
# What the training of a kind of plant supervised, and detectors that measure it.
ROUTER_ON_PROMPTS, ROUTER_ON_REPLIES = ("routed", "decoy_content", "decoy_head"), ("reply_routed",)
MASKING = frozenset({"mask_effect", "gate_gradient", "reply_effect", "reply_gradient"})
PROBED = {"mask_experts": MASKING, "reroute": MASKING}
Expert = tuple[int, int]
Scores = Mapping[Expert, float]

COLUMNS = (
    *("model", "plant", "detector", "related", "carriers", "experts"),
    *("precision", "average_precision", "ranks", "decoy_rank"),
    *("top", "top_score", "threshold", "alarms"),
)


@dataclass(frozen=True)
class Truth:
    """Where refusal was put.

    Attributes:
        plant: kind of plant; `natural` where nothing was planted.
        carriers: experts that carry refusal; none where it is in attention, or nowhere in particular.
        decoys: experts that react to harmful prompts and carry nothing.
        related: detectors that measure what the training of this plant was about, so that their
            success is put in by construction.
    """

    plant: str
    carriers: frozenset[Expert]
    decoys: frozenset[Expert]
    related: frozenset[str]


def ranking(scores: Scores) -> list[Expert]:
    """Experts by falling score; ties by layer and expert, a score that is not a number last."""

    def key(expert: Expert) -> tuple[bool, float, Expert]:
        score = scores[expert]
        return math.isnan(score), -score if not math.isnan(score) else 0.0, expert

    return sorted(scores, key=key)


def ranks(scores: Scores, wanted: Iterable[Expert]) -> list[int]:
    """Rank of each wanted expert, from 1, rising; among equal scores the worst place.

    Counting ties against the detector keeps one that gives every expert the same score from being lucky.
    """
    found = []
    for expert in wanted:
        score = scores[expert]
        found.append(
            sum(1 for other in scores.values() if other >= score) if not math.isnan(score) else len(scores)
        )
    return sorted(found)


def precision(scores: Scores, carriers: frozenset[Expert]) -> float:
    """Share of the first k experts that are carriers, k the number of carriers; NaN without carriers."""
    if not carriers:
        return math.nan
    return sum(rank <= len(carriers) for rank in ranks(scores, carriers)) / len(carriers)


def average_precision(scores: Scores, carriers: frozenset[Expert]) -> float:
    """Mean over carriers of the precision at the rank of each; NaN without carriers.

    Source: Manning, Raghavan and Schuetze (2008), Introduction to Information Retrieval, section 8.4.
    """
    if not carriers:
        return math.nan
    # The i-th best carrier stands at its rank among i carriers and whatever is as good.
    return sum(place / rank for place, rank in enumerate(ranks(scores, carriers), 1)) / len(carriers)


def read_detection(path: Path) -> dict[str, dict[Expert, float]]:
    """Scores of every expert, by detector.

    Raises:
        SteerError: the file is missing or holds no expert.
    """
    if not path.is_file():
        raise SteerError(str(path), "no such file", "run the detection stage first")
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if not rows:
        raise SteerError(str(path), "has no row", "remove it and run the detection stage again")
    # The ends of an interval are no detector.
    detectors = [name for name in rows[0] if name not in PLACE and not name.endswith(("_low", "_high"))]
    return {
        name: {(int(row["layer"]), int(row["expert"])): float(row[name] or "nan") for row in rows}
        for name in detectors
    }


def thresholds(natural: Sequence[Mapping[str, Scores]]) -> dict[str, float]:
    """The largest score that each detector gives any expert of the natural models."""
    found: dict[str, float] = {}
    for detection in natural:
        for name, scores in detection.items():
            finite = [score for score in scores.values() if not math.isnan(score)]
            if finite:
                found[name] = max(found.get(name, -math.inf), *finite)
    return found


def compare(
    model: str, truth: Truth, detection: Mapping[str, Scores], alarms: Mapping[str, float]
) -> Iterator[Row]:
    """A row per detector of one model."""
    for name, scores in detection.items():
        top = ranking(scores)[0]
        threshold = alarms.get(name)
        yield {
            "model": model,
            "plant": truth.plant,
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
            "alarms": None if threshold is None else sum(score > threshold for score in scores.values()),
        }


def _names(experts: Sequence[Expert]) -> str:
    return " ".join(f"{layer}:{expert}" for layer, expert in experts)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def related(kind: str, probes: Sequence[str], detectors: Iterable[str]) -> frozenset[str]:
    """Detectors that measure what a plant was trained under."""
    found = {name for probe in probes for name in PROBED.get(probe, ())}
    for prefix, kinds in (("prompt_", ROUTER_ON_PROMPTS), ("response_", ROUTER_ON_REPLIES)):
        if kind in kinds:
            found |= {name for name in detectors if name.startswith(prefix)}
    return frozenset(found)


def truth_of(path: Path, detectors: Iterable[str]) -> Truth:
    """The truth that `model.json` tells; without one, the model is natural."""
    told = read_facts(path).truth
    if told is None:
        return Truth(NATURAL, frozenset(), frozenset(), frozenset())
    carriers = frozenset(told.carriers) if told.carrier == "experts" else frozenset()
    return Truth(told.kind, carriers, frozenset(told.decoys), related(told.kind, told.probes, detectors))


def write_scorecard(models: Sequence[Path], detections: Sequence[Path], out: Path) -> None:
    """Compare every detector of every model with the truth, and write `out`.

    Args:
        models: `model.json` of each model.
        detections: `detection.csv` of each, in the same order.
        out: the table, a row per model and detector.

    Raises:
        SteerError: an input can't be used.
        ValueError: there are more or fewer tables than models.
    """
    names = [path.parent.name for path in models]
    tables = dict(zip(names, map(read_detection, detections), strict=True))
    truths = {name: truth_of(path, tables[name]) for name, path in zip(names, models, strict=True)}
    natural = [name for name in names if truths[name].plant == NATURAL]
    rows: list[Row] = []
    for name in names:
        # A natural model is compared with the others of its kind, not with itself.
        alarms = thresholds([tables[other] for other in natural if other != name])
        rows += compare(name, truths[name], tables[name], alarms)
    write_csv(out, rows, COLUMNS)
    inputs = input_digests({"models": models, "detections": detections})
    attach(out, provenance("steer.scorecard", {}, inputs))
