"""Shares of true classes from a judge's verdicts and its measured errors.

Rogan and Gladen (1978) for two classes, here for any number: with M[t, j] the probability that class t is
judged as j, the judged shares are q = Mᵀ p, so p = M⁻ᵀ q. Chance may carry that outside of what shares can
be; then the nearest point of the simplex is taken. Everything random takes a generator.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from steer.stats import UNDEFINED, Interval

SMALLEST_DETERMINANT = 1e-6
"""Below it the classes can't be told apart by the judge's verdicts, but for rounding."""


class Corrected(NamedTuple):
    """Corrected shares, one interval a class, and how many resamples they rest on."""

    shares: tuple[Interval, ...]
    resamples: int


def simplex(points: Float[np.ndarray, "point label"]) -> Float[np.ndarray, "point label"]:
    """The nearest shares (none below 0, sum 1) to each point (Held, Wolfe and Crowder 1974)."""
    falling = -np.sort(-points, axis=1)
    excess = (np.cumsum(falling, axis=1) - 1) / np.arange(1, points.shape[1] + 1)
    kept = np.sum(falling > excess, axis=1)
    return np.maximum(points - np.take_along_axis(excess, kept[:, None] - 1, axis=1), 0.0)


def correct(
    judged: Float[np.ndarray, "point label"], errors: Float[np.ndarray, "point label label"]
) -> Float[np.ndarray, "point label"]:
    """Corrected shares of every point; NaN where the errors can't be undone.

    Args:
        judged: judged shares.
        errors: a row for each true class: the shares in which it is judged as each class.
    """
    shares = np.full(judged.shape, np.nan)
    usable = np.abs(np.linalg.det(errors)) > SMALLEST_DETERMINANT
    if usable.any():
        turned = np.swapaxes(errors[usable], 1, 2)
        shares[usable] = simplex(np.linalg.solve(turned, judged[usable][..., None])[..., 0])
    return shares


def corrected(
    judged: Num[np.ndarray, " label"],
    labelled: Int[np.ndarray, "label label"],
    rng: np.random.Generator,
    resamples: int,
    confidence: float,
) -> Corrected:
    """Corrected shares with percentile bootstrap intervals over the judged and over the labelled replies.

    Args:
        judged: how many prompts are judged as each class, a sampled reply counting as its share of one.
        labelled: a row for each true class: how many of it are judged as each class.
        rng: draws the resamples; labelled replies are drawn within their true class.
        resamples: how many.
        confidence: level of the intervals.

    Returns:
        `UNDEFINED` for every class without judged replies, without labelled replies of a class, or where
        the errors can't be undone, such as for a judge that never gives one of the verdicts.
    """
    undefined = Corrected((UNDEFINED,) * len(judged), 0)
    whole, totals = float(judged.sum()), labelled.sum(axis=1)
    if whole == 0 or (totals == 0).any():
        return undefined
    estimate = correct(judged[None] / whole, (labelled / totals[:, None])[None])[0]
    if np.isnan(estimate).any():
        return undefined
    # A part of a prompt is drawn as a whole one.
    n = max(1, round(whole))
    drawn = rng.multinomial(n, judged / whole, size=resamples) / n
    rows = [
        rng.multinomial(total, row / total, size=resamples) / total
        for row, total in zip(labelled, totals, strict=True)
    ]
    found = correct(drawn, np.stack(rows, axis=1))
    found = found[~np.isnan(found).any(axis=1)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(found, [tail, 1 - tail], axis=0)
    ends = zip(estimate.tolist(), low.tolist(), high.tolist(), strict=True)
    return Corrected(tuple(Interval(*end) for end in ends), len(found))
