"""Prompts drawn again: a resample is a row of weights, so that all of them are one matrix product.

With R resamples, N prompts and F experts, `weights [R, N] @ counts [N, F]` is done for a block of
experts at a time: memory holds the weights and the results, and a block of the counts as float64.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped

Weights = Float[np.ndarray, "resamples _"]
Matrix = Float[np.ndarray, "resamples experts"]

BLOCK = 512
"""Experts at a time."""


def bootstrap(n: int, resamples: int, rng: np.random.Generator) -> Weights:
    """How often each prompt is drawn, with replacement (Efron and Tibshirani 1993, section 6.2)."""
    drawn = rng.integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)


def halves(n: int, splits: int, rng: np.random.Generator) -> Weights:
    """Both halves of random splits; of an odd number one half has a prompt more."""
    first = rng.permuted(np.tile(np.arange(n), (splits, 1)), axis=1) < (n + 1) // 2
    return np.concatenate([first, ~first]).astype(np.float64)


def left_out(groups: Sequence[str], names: Sequence[str]) -> Weights:
    """For each name, every prompt but those of that group."""
    found = np.array(groups)
    return np.array([found != name for name in names], dtype=np.float64).reshape(len(names), len(found))


def blocks(experts: int) -> Iterator[slice]:
    """All experts, `BLOCK` of them at a time."""
    for start in range(0, experts, BLOCK):
        yield slice(start, min(start + BLOCK, experts))


def by_blocks(experts: int, result: Callable[[slice], Matrix], resamples: int) -> Matrix:
    """Fill a matrix `[resamples, experts]`, a block of experts at a time."""
    filled = np.empty((resamples, experts))
    for block in blocks(experts):
        filled[:, block] = result(block)
    return filled


def ratios(
    weights: Weights,
    counts: Shaped[np.ndarray, "prompts experts"],
    totals: Int[np.ndarray, " prompts"],
) -> Matrix:
    """Weighted sum of counts over the weighted sum of totals, of every resample and expert."""
    whole = (weights @ totals.astype(np.float64))[:, None]

    def result(block: slice) -> Matrix:
        return np.asarray(weights @ counts[:, block].astype(np.float64) / whole)

    return by_blocks(counts.shape[1], result, len(weights))
