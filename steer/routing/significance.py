"""p-values of differences of means, by relabelling prompts.

The share of relabellings that reach the observed difference needs more of them than there are experts
before Benjamini-Hochberg can tell anything. Where fewer than `RESOLVED` of the drawn ones reach it, the
tail is that of the normal distribution with the variance of *all* relabellings, which is known exactly;
never below one over their number.
"""

import math

import numpy as np
from jaxtyping import Float, Int

from steer.routing.resampling import Matrix, Weights

Rates = Float[np.ndarray, "_ experts"]
PValues = Float[np.ndarray, " experts"]

RESOLVED = 10
"""Relabellings that must reach the observed difference for their share to stand (Knijnenburg et al. 2009)."""
ROUNDING = 1e-12
LOG_TINY = -700.0
"""Logarithm of about the smallest number that float64 holds in full."""


def permutations(n_1: int, n_2: int, rng: np.random.Generator, resamples: int) -> Weights:
    """Labels dealt out anew: a row gives each prompt 1/n_1 or -1/n_2, so that a product is a difference."""
    labels = rng.permuted(np.tile(np.arange(n_1 + n_2), (resamples, 1)), axis=1) < n_1
    return np.where(labels, 1 / n_1, -1 / n_2)


def flips(n: int, rng: np.random.Generator, resamples: int) -> Weights:
    """Sides swapped at random within each of n pairs: a row gives each difference 1/n or -1/n."""
    return rng.choice([-1.0, 1.0], size=(resamples, n)) / n


def permuted(first: Rates, second: Rates, weights: Weights) -> PValues:
    """Two-sided p-value of the difference of two means over different prompts; see `permutations`."""
    n_1, n_2 = len(first), len(second)
    pooled = np.concatenate([first, second])
    deviation = pooled.std(axis=0, ddof=1) * math.sqrt(1 / n_1 + 1 / n_2)
    observed = np.abs(first.mean(axis=0) - second.mean(axis=0))
    return _p_values(observed, weights @ pooled, deviation, -_log_choose(n_1 + n_2, n_1))


def flipped(differences: Rates, weights: Weights) -> PValues:
    """Two-sided p-value of a mean of paired differences; see `flips`."""
    n = len(differences)
    deviation = np.sqrt((differences**2).sum(axis=0)) / n
    observed = np.abs(differences.mean(axis=0))
    return _p_values(observed, weights @ differences, deviation, (1 - n) * math.log(2))


def _p_values(observed: PValues, relabelled: Matrix, deviation: PValues, log_smallest: float) -> PValues:
    resamples = len(relabelled)
    reached: Int[np.ndarray, " experts"] = (np.abs(relabelled) >= observed - ROUNDING).sum(axis=0)
    drawn = (reached + 1) / (resamples + 1)
    z = np.divide(observed, deviation, out=np.zeros_like(observed), where=deviation > 0)
    tail = np.array([math.erfc(value / math.sqrt(2)) for value in z])
    smallest = math.exp(max(log_smallest, LOG_TINY))
    return np.where(reached < RESOLVED, np.clip(tail, smallest, drawn), drawn)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
