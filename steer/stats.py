"""Intervals, paired tests and agreement: pure functions of counts and vectors.

An estimate from no observation is `UNDEFINED` (NaN in all three fields, an empty cell in a
table), never 0 or 1. Everything random takes a generator.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import spearmanr, t

RESAMPLES = 2000
CONFIDENCE = 0.95
CELLS = 10**7
"""Most numbers that an exact p-value may have in memory; beyond it signs are drawn."""
FLIPS = 20_000
"""Choices of signs that are drawn then."""


class Interval(NamedTuple):
    """An estimate with the two ends of its interval."""

    estimate: float
    low: float
    high: float


UNDEFINED = Interval(math.nan, math.nan, math.nan)


def wilson(successes: float | int, n: float | int, confidence: float = CONFIDENCE) -> Interval:
    """Share `successes / n` with the score interval of Wilson (1927), without continuity correction.

    Both are counts; shares of prompts may add up to parts of one.

    Returns:
        The interval, inside [0, 1]; `UNDEFINED` for n = 0.

    Raises:
        ValueError: `successes` is not between 0 and n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes among {n}")
    if n == 0:
        return UNDEFINED
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At the ends the exact value is 0 or 1; rounding must not leave 1e-17 there.
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == n else (centre + half) / scale
    return Interval(share, low, high)


def clustered(
    successes: int, clusters: Float[np.ndarray, " cluster"], n: int, confidence: float = CONFIDENCE
) -> Interval:
    """A share of replies that come in clusters, with the interval of Wilson for their effective number.

    That is p (1 - p) over the squared standard error of the clusters' mean (Kish 1965), times the squared
    ratio of the quantiles of t for n - 1 replies and for one less than the clusters (Korn and Graubard 1998,
    Survey Methodology 24), but no fewer than the clusters and no more than the replies; the clusters where
    all share 0 or 1, and where there is one, whose spread is not known. Of clusters of one reply it is
    Wilson's own. Close to 0 and 1 a bootstrap over clusters is too narrow: over 60 prompts with three samples
    it holds a true 2 % in 88 to 90 cases of 100.

    Args:
        successes: of all replies.
        clusters: the share of each cluster.
        n: replies of all of them.
        confidence: level of the interval.

    Returns:
        The interval; `UNDEFINED` without replies.
    """
    count = len(clusters)
    if n == count:
        return wilson(successes, n, confidence)
    share, effective = successes / n, float(count)
    if 0 < share < 1 and count > 1:
        variance = float(clusters.var(ddof=1)) / count
        tail = (1 + confidence) / 2
        known = float(t.ppf(tail, n - 1) / t.ppf(tail, count - 1)) ** 2
        worth = known * share * (1 - share) / variance if variance else float(n)
        effective = min(float(n), max(effective, worth))
    return wilson(share * effective, effective, confidence)


def difference_of_shares(one: Interval, other: Interval) -> Interval:
    """How much larger one share is than another of other prompts, each given with its Wilson interval.

    Source: Newcombe (1998), Statistics in Medicine 17:873–890, method 10, without continuity correction.
    """
    estimate = one.estimate - other.estimate
    down = math.hypot(one.estimate - one.low, other.high - other.estimate)
    up = math.hypot(one.high - one.estimate, other.estimate - other.low)
    return Interval(estimate, estimate - down, estimate + up)


def _percentiles(estimates: Float[np.ndarray, " resample"], confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(estimates, [tail, 1 - tail])
    return float(low), float(high)


def paired_difference(
    treated: Float[np.ndarray, " prompt"],
    control: Float[np.ndarray, " prompt"],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Mean of `treated - control` over the same prompts, with a percentile bootstrap interval over prompts.

    Efron and Tibshirani (1993), section 13.3. A resample of prompts is drawn as the number of times
    that each distinct difference occurs in it: the same distribution, and for 0/1 outcomes three
    numbers a resample instead of one a prompt.

    Returns:
        The interval; `UNDEFINED` without prompts.
    """
    differences = np.asarray(treated, dtype=np.float64) - np.asarray(control, dtype=np.float64)
    n = len(differences)
    if n == 0:
        return UNDEFINED
    values, counts = np.unique(differences, return_counts=True)
    drawn = rng.multinomial(n, counts / n, size=resamples)
    return Interval(float(differences.mean()), *_percentiles(drawn @ values / n, confidence))


def pooled_mean(
    totals: Float[np.ndarray, " item"],
    weights: Float[np.ndarray, " item"],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Sum of `totals` over sum of `weights`, with a percentile bootstrap interval over items.

    Efron and Tibshirani (1993), section 13.3, for a ratio of sums: an item keeps its total and its weight.

    Returns:
        The interval; `UNDEFINED` without items.
    """
    n = len(totals)
    if n == 0:
        return UNDEFINED
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=resamples)
    estimate = float(totals.sum() / weights.sum())
    return Interval(estimate, *_percentiles((drawn @ totals) / (drawn @ weights), confidence))


def ratio_of_differences(
    one: Float[np.ndarray, " prompt"],
    other: Float[np.ndarray, " prompt"],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Mean of `one` over the mean of `other`, both of the same prompts, with a percentile bootstrap interval.

    A resample of prompts is drawn for both together, as in `paired_difference`.

    Returns:
        The interval; `UNDEFINED` without prompts, or where the interval of the mean of `other` holds 0.
    """
    n = len(one)
    if n == 0:
        return UNDEFINED
    pairs, counts = np.unique(np.stack([one, other], axis=1), axis=0, return_counts=True)
    drawn = rng.multinomial(n, counts / n, size=resamples) @ pairs / n
    low, high = _percentiles(drawn[:, 1], confidence)
    if low <= 0 <= high:
        return UNDEFINED
    # In the few resamples of the tail where it turns, the share is as far out as shares go.
    turned = drawn[:, 1] * float(np.mean(other)) <= 0
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.copysign(np.inf, drawn[:, 0] * np.sign(np.mean(other)))
        shares = np.where(turned, far, drawn[:, 0] / drawn[:, 1])
    tail = (1 - confidence) / 2
    ends = np.quantile(shares, [tail, 1 - tail], method="higher")
    return Interval(float(np.mean(one) / np.mean(other)), float(ends[0]), float(ends[1]))


def mcnemar(treated: Bool[np.ndarray, " prompt"], control: Bool[np.ndarray, " prompt"]) -> float:
    """Exact two-sided p-value of McNemar's test (1947) on paired yes/no outcomes.

    Twice the binomial tail (p = 1/2) of the rarer kind of discordant pair, at most 1; 1 when no
    pair is discordant, which includes no pairs at all.
    """
    only_treated = int(np.sum(treated & ~control))
    only_control = int(np.sum(control & ~treated))
    discordant = only_treated + only_control
    tail = sum(math.comb(discordant, k) for k in range(min(only_treated, only_control) + 1))
    p_value: float = 2 * tail / 2**discordant
    return min(1.0, p_value)


def sign_flips(differences: Float[np.ndarray, " prompt"], parts: int, rng: np.random.Generator) -> float:
    """Two-sided p-value of paired differences under which each sign is as likely as the other.

    Fisher's randomisation test (1935, section 21): the share of all 2^n choices of signs whose sum is as far
    from 0 as the one seen. Of differences -1, 0 and 1 it is McNemar's test. It is exact, but where the sums
    that can be are more than `CELLS`: then `FLIPS` choices are drawn, the one seen counts as one more, and
    the p-value is the share among them (Phipson and Smyth 2010), no less than 1 / (`FLIPS` + 1).

    Args:
        differences: multiples of 1 / `parts`.
        parts: what they are multiples of.
        rng: draws the signs, where they are drawn.
    """
    if 2 * float(np.abs(differences).sum()) * parts + 1 > CELLS:
        return _drawn_flips(differences, rng)
    steps = np.rint(np.abs(differences) * parts).astype(np.int64)
    steps = steps[steps > 0]
    total = int(steps.sum())
    chances = np.zeros(2 * total + 1)
    chances[total] = 1.0
    for step in steps.tolist():
        chances = (np.roll(chances, step) + np.roll(chances, -step)) / 2
    seen = abs(round(float(differences.sum()) * parts))
    far = np.abs(np.arange(-total, total + 1)) >= seen
    return min(1.0, float(chances[far].sum()))


def _drawn_flips(differences: Float[np.ndarray, " prompt"], rng: np.random.Generator) -> float:
    # How many of each size keep their sign: the same distribution, and fewer numbers than one a prompt.
    sizes, counts = np.unique(np.abs(differences), return_counts=True)
    kept = rng.binomial(counts, 0.5, size=(FLIPS, len(sizes)))
    # As far but for rounding.
    far = np.abs((2 * kept - counts) @ sizes) >= abs(float(differences.sum())) - 1e-9
    return (1 + int(far.sum())) / (1 + FLIPS)


def accuracy(judged: Sequence[str], truth: Sequence[str], confidence: float = CONFIDENCE) -> Interval:
    """Share of equal labels with its Wilson interval; `UNDEFINED` without labels."""
    equal = sum(one == other for one, other in zip(judged, truth, strict=True))
    return wilson(equal, len(truth), confidence)


def confusion(
    judged: Sequence[str], truth: Sequence[str], labels: Sequence[str]
) -> Int[np.ndarray, "label label"]:
    """Counts of (truth, judged) pairs: a row for each true label, a column for each judged one.

    Raises:
        KeyError: a label that is not among `labels`.
    """
    index = {label: place for place, label in enumerate(labels)}
    table = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for one, other in zip(judged, truth, strict=True):
        table[index[other], index[one]] += 1
    return table


def _kappas(tables: Int[np.ndarray, "*batch label label"]) -> Float[np.ndarray, " *batch"]:
    """Kappa of each table; NaN where chance agreement is certain, so that kappa is 0/0."""
    n = tables.sum(axis=(-2, -1))
    observed = np.trace(tables, axis1=-2, axis2=-1) / n
    expected = (tables.sum(axis=-1) * tables.sum(axis=-2)).sum(axis=-1) / n**2
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(expected < 1, (observed - expected) / (1 - expected), np.nan))


def cohen_kappa(
    first: Sequence[str],
    second: Sequence[str],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Agreement of two judges beyond chance (Cohen 1960), with a percentile bootstrap interval over items.

    Returns:
        The interval; `UNDEFINED` without items, or when both judges give one and the same label
        throughout, since chance alone would then agree. Resamples of that kind are left out.
    """
    labels = sorted({*first, *second})
    table = confusion(first, second, labels)
    if len(labels) < 2:
        return UNDEFINED
    n = int(table.sum())
    drawn = rng.multinomial(n, table.ravel() / n, size=resamples).reshape(resamples, *table.shape)
    estimates = _kappas(drawn)
    return Interval(float(_kappas(table)), *_percentiles(estimates[~np.isnan(estimates)], confidence))


def spearman(
    one: Float[np.ndarray, " item"], other: Float[np.ndarray, " item"], confidence: float = CONFIDENCE
) -> Interval:
    """Rank correlation (Spearman 1904), with an interval from Fisher's z (Bonett and Wright 2000).

    The variance of z is (1 + rho^2 / 2) / (n - 3). Ties share their mean rank.

    Returns:
        The interval; `UNDEFINED` for fewer than four items, or where one side is constant.
    """
    first, second = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    n = len(first)
    if n < 4 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return UNDEFINED
    rho = float(spearmanr(first, second).statistic)
    if abs(rho) >= 1:
        return Interval(rho, rho, rho)
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    middle = math.atanh(rho)
    return Interval(rho, math.tanh(middle - reach), math.tanh(middle + reach))


def benjamini_hochberg(p_values: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """q-values: smallest false discovery rate at which each test is rejected.

    Benjamini and Hochberg (1995): p·m/rank, made monotone from the largest p downwards, at most 1.
    """
    order = np.argsort(p_values, kind="stable")
    m = len(p_values)
    scaled = p_values[order] * m / np.arange(1, m + 1)
    q_values = np.empty(m)
    q_values[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q_values


def holm(p_values: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjusted p-values that hold the chance of any false claim among the tests.

    Holm (1979): p·(m − rank + 1), made monotone from the smallest p upwards, at most 1.
    """
    order = np.argsort(p_values, kind="stable")
    m = len(p_values)
    adjusted = np.empty(m)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * np.arange(m, 0, -1)), 1.0)
    return adjusted


def equivalence(
    treated: Float[np.ndarray, " prompt"] | Bool[np.ndarray, " prompt"],
    control: Float[np.ndarray, " prompt"] | Bool[np.ndarray, " prompt"],
    margin: float,
) -> float:
    """p-value of the claim that two paired rates differ by less than `margin`.

    Two one-sided tests (Schuirmann 1987), each by the score statistic of Tango (1998, Statistics in
    Medicine 17, eq. 6), which stays defined when no pair is discordant; the larger p-value of both. Shares of
    several samples count as the discordant pairs that they add up to, which is never too sure: the square of
    a difference is no larger than the difference.

    Returns:
        The p-value; 1 without pairs.

    Raises:
        ValueError: `margin` is not between 0 and 1.
    """
    if not 0 < margin < 1:
        raise ValueError(f"a margin of {margin}")
    n = len(treated)
    if n == 0:
        return 1.0
    more = np.asarray(treated, dtype=np.float64) - np.asarray(control, dtype=np.float64)
    only_treated, only_control = float(more.clip(min=0).sum()), float((-more).clip(min=0).sum())
    # That the rate is lower by the margin or more, and, with both sides exchanged, higher by it.
    worst = min(
        _tango(only_treated, only_control, n, -margin), _tango(only_control, only_treated, n, -margin)
    )
    return 1 - NormalDist().cdf(worst)


def _tango(b: float, c: float, n: int, difference: float) -> float:
    """Score statistic of `b` and `c` discordant pairs among `n` against a true difference (b − c) / n."""
    first = 2 * n
    second = -b - c + (2 * n - b + c) * difference
    third = -c * difference * (1 - difference)
    rarer = (math.sqrt(second * second - 4 * first * third) - second) / (2 * first)
    variance = n * (2 * rarer + difference * (1 - difference))
    return (b - c - n * difference) / math.sqrt(variance)


def log_odds_ratio(
    count_1: Int[np.ndarray, " table"],
    total_1: Int[np.ndarray, " table"],
    count_2: Int[np.ndarray, " table"],
    total_2: Int[np.ndarray, " table"],
) -> Float[np.ndarray, " table"]:
    """Log-odds of 2x2 tables, nats, with one half added to each cell (Haldane 1956, Anscombe 1956)."""
    odds_1 = (count_1 + 0.5) / (total_1 - count_1 + 0.5)
    odds_2 = (count_2 + 0.5) / (total_2 - count_2 + 0.5)
    return np.asarray(np.log(odds_1 / odds_2))
