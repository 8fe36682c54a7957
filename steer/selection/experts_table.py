"""The candidates of one arm on experts: places ranked by estimate, and a row for each in the table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steer.artifacts.files import Row
from steer.config import ExpertDirectionArm, ExpertSelectionSettings
from steer.selection.experts_directions import ExpertDirections
from steer.selection.experts_exact import Candidate, Place
from steer.selection.making import sign_of
from steer.selection.trials import COUNTED, WANTED
from steer.stats import spearman

COLUMNS = (
    *("arm", "operation", "polarity", "estimator", "weighting", "layer", "expert", "position"),
    *("direction_norm", "estimate", "estimate_rank", "coefficient", "refusal_score", "kl", "stage"),
    *("scope", "set", "n", *COUNTED, "chosen"),
)


@dataclass(frozen=True)
class Ranked:
    """A place, with the first-order estimate of what its direction does.

    Attributes:
        place: layer, expert (None for all) and position.
        direction: of every expert that is edited.
        estimate: change of the refusal score for each unit of the coefficient, the polarity's sign included.
    """

    place: Place
    direction: Float[Tensor, "experts_edited d"]
    estimate: float

    @property
    def norm(self) -> float:
        """Length of the direction; of those of all experts together, when all are edited."""
        return float(self.direction.double().norm())

    def candidate(self, coefficient: float) -> Candidate:
        """The place with a coefficient, sign included."""
        return Candidate(self.place, coefficient, self.direction)


def ranked(
    settings: ExpertDirectionArm,
    directions: ExpertDirections,
    estimated: Float[Tensor, "moe_layers experts positions"],
) -> list[Ranked]:
    """Every place of an arm whose direction is not zero, the most wanted change first.

    Ties go to the earlier layer, the lower expert and the later position.
    """
    vectors, sign = directions.of(settings.estimator), sign_of(settings.polarity)
    found = []
    for row, layer in enumerate(directions.moe_layers):
        for column, position in enumerate(directions.positions):
            if settings.operation == "experts_add":
                all_of = vectors[row, :, column]
                change = sign * float(estimated[row, :, column].sum())
                found.append(Ranked(Place(layer, None, position), all_of, change))
                continue
            for expert in range(directions.experts):
                change = sign * float(estimated[row, expert, column])
                found.append(Ranked(Place(layer, expert, position), vectors[row, [expert], column], change))
    present = [one for one in found if bool((one.direction != 0).any())]
    return sorted(present, key=lambda one: (sign * -one.estimate, *_order(one.place)))


def _order(place: Place) -> tuple[int, int, int]:
    return place.layer, -1 if place.expert is None else place.expert, -place.position


def to_score(count: int, settings: ExpertSelectionSettings) -> list[int]:
    """Ranks that are scored exactly: the first, and some spread evenly over the rest, the last included."""
    best = min(settings.estimated, count)
    rest = range(best, count)
    spread = np.linspace(best, count - 1, min(settings.spread, len(rest))).round().astype(int).tolist()
    return [*range(best), *dict.fromkeys(spread)]


def kept(rows: Sequence[Row], settings: ExpertSelectionSettings) -> list[Row]:
    """Of the scored rows of an arm those to judge, the most promising first.

    Of each place, within the KL threshold, the smallest dose that turns the first token (or, where none
    does, the one that comes nearest) and the doses next to it: larger ones have lower scores still, but
    most of them break the text. Places that turn it come first, the smaller multiple before the larger.
    Where nothing is within the threshold, the rows of the smallest KL are judged (arXiv 2606.04160, stage 1).
    """
    number = max(math.ceil(settings.share * len(rows)), settings.judged)
    within = [row for row in rows if row["kl"] <= settings.kl_threshold]
    if not within:
        return sorted(rows, key=lambda row: (row["kl"], row["estimate_rank"]))[:number]
    places: dict[int, list[Row]] = {}
    for row in sorted(within, key=size_of):
        places.setdefault(row["estimate_rank"], []).append(row)
    nearest = [_from_turning(doses) for doses in places.values()]
    nearest.sort(key=lambda doses: (max(_left(doses[0]), 0.0), *_small(doses[0])))
    rounds = max(len(doses) for doses in nearest)
    turns = [
        row
        for start in range(0, rounds, NEIGHBOURS)
        for doses in nearest
        for row in doses[start : start + NEIGHBOURS]
    ]
    return turns[:number]


NEIGHBOURS = 3
"""Doses of a place that are judged before those of the next one: where it turns, and one on either side."""


def _left(row: Row) -> float:
    """How far the refusal score is from even odds; below 0 on the side that is wanted."""
    return float(row["refusal_score"]) if row["polarity"] == "suppress" else -float(row["refusal_score"])


def _small(row: Row) -> tuple[float, int]:
    return float(abs(row["coefficient"])), row["estimate_rank"]


def _from_turning(doses: Sequence[Row]) -> list[Row]:
    """The doses of a place, rising, put in the order of their distance from the one that turns the token."""
    turned = [index for index, row in enumerate(doses) if _left(row) < 0]
    best = turned[0] if turned else min(range(len(doses)), key=lambda index: _left(doses[index]))
    return [doses[index] for index in sorted(range(len(doses)), key=lambda index: (abs(index - best), index))]


def best_of(rows: Sequence[Row]) -> Row:
    """The judged row with most of the wanted verdict; of equal ones that of the smallest norm, then KL."""
    judged = [row for row in rows if row["n"] is not None]
    return min(judged, key=lambda row: (-row[WANTED[row["polarity"]]], size_of(row), row["kl"]))


def untried(best: Row, rows: Sequence[Row]) -> list[Row]:
    """Doses that the best one's place was not judged at in its scope; copies where it was in another."""
    place = [row for row in rows if row["estimate_rank"] == best["estimate_rank"]]
    known = {row["coefficient"] for row in place if row["scope"] == best["scope"]}
    left = {row["coefficient"]: row for row in place if row["coefficient"] not in known}
    return [row if row["scope"] is None else {**row, "scope": best["scope"]} for row in left.values()]


def around(best: Row, rows: Sequence[Row]) -> tuple[list[Row], list[float]]:
    """What to judge next: the doses beside the best one, or, in ratio, halfway to those that were judged."""
    tried = sorted({abs(row["coefficient"]) for row in rows if row["estimate_rank"] == best["estimate_rank"]})
    here = tried.index(abs(best["coefficient"]))
    beside = [tried[index] for index in (here - 1, here + 1) if 0 <= index < len(tried)]
    left = [row for row in untried(best, rows) if abs(row["coefficient"]) in beside]
    between = sorted({*beside} - {abs(row["coefficient"]) for row in left})
    return left, [math.copysign(math.sqrt(tried[here] * dose), best["coefficient"]) for dose in between]


def size_of(row: Row) -> float:
    """Norm of what is added where an expert has weight one."""
    return float(abs(row["coefficient"]) * row["direction_norm"])


def blank_row(arm: str, settings: ExpertDirectionArm, one: Ranked, rank: int) -> Row:
    """A row of the table that has an estimate and nothing else."""
    row: Row = dict.fromkeys(COLUMNS)
    row |= {"arm": arm, "operation": settings.operation, "polarity": settings.polarity}
    row |= {"estimator": settings.estimator, "weighting": settings.weighting}
    row |= {"layer": one.place.layer, "expert": one.place.expert, "position": one.place.position}
    row |= {"direction_norm": one.norm, "estimate": one.estimate, "estimate_rank": rank}
    return row | {"stage": "estimated", "chosen": False}


def bottom_of(chosen: Place, places: Sequence[Ranked]) -> list[list[int]]:
    """The other expert of the chosen layer and position whose direction promises the least change."""
    others = [
        one
        for one in places
        if (one.place.layer, one.place.position) == (chosen.layer, chosen.position)
        and one.place.expert not in (None, chosen.expert)
    ]
    if not others:
        return []
    least = min(others, key=lambda one: (abs(one.estimate), _order(one.place)))
    return [[least.place.layer, int(least.place.expert or 0)]]


def correlations(rows: Sequence[Row], baseline: float) -> list[dict[str, Any]]:
    """Rank correlation of the estimate with the exact change of the refusal score, at each coefficient."""
    found = []
    for coefficient in sorted({abs(row["coefficient"]) for row in rows}):
        mine = [row for row in rows if abs(row["coefficient"]) == coefficient]
        estimates = torch.tensor([row["estimate"] for row in mine], dtype=torch.float64)
        changes = torch.tensor([row["refusal_score"] for row in mine], dtype=torch.float64) - baseline
        rho = spearman(estimates.numpy(), changes.numpy())
        values = {"rho": rho.estimate, "low": rho.low, "high": rho.high}
        numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}
        found.append({"coefficient": coefficient, "n": len(mine), **numbers})
    return found
