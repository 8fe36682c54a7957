"""Where the carriers stand in a detector's ranking."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping

Expert = tuple[int, int]
Scores = Mapping[Expert, float]


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
    found = ranks(scores, carriers)
    # Carriers that are tied share a rank, and all of them stand there or before.
    return sum(bisect_right(found, rank) / rank for rank in found) / len(found)
