"""From counts per prompt to the columns of a routing table."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steer.artifacts.routing import Column
from steer.routing.counts import Side
from steer.routing.resampling import (
    Matrix,
    Weights,
    blocks,
    bootstrap,
    by_blocks,
    halves,
    left_out,
    ratios,
)
from steer.routing.significance import flipped, flips, permutations, permuted
from steer.stats import benjamini_hochberg, log_odds_ratio

Sides = tuple[Side, Side]


@dataclass(frozen=True)
class Method:
    """How a contrast is judged.

    Attributes:
        paired: whether prompt i of side 1 belongs to prompt i of side 2: they are then drawn together,
            and a relabelling swaps within the pair.
        resamples: bootstrap resamples, relabellings, and half-samples, each.
        confidence: level of the intervals.
        top: N of "among the top N by |risk difference|".
        seed: of everything drawn.
    """

    paired: bool
    resamples: int
    confidence: float
    top: int
    seed: int


def statistics(sides: Sides, method: Method) -> dict[str, Column]:
    """All columns but `layer` and `expert`.

    Source: risk difference and log-odds after SteerMoE (arXiv 2509.09660, section 3); top-1 difference
    after Expert-Aware Refusal Steering (arXiv 2606.04160).
    """
    generator = np.random.default_rng(method.seed)
    drawn = _bootstrap(sides, method, generator)
    differences = risk_differences(sides, drawn)
    columns = {
        **_tokens(sides),
        **_interval(differences, "ci", method.confidence),
        "prompt_stability": stability(differences, method.top),
        **_prompts(sides, drawn, method),
        **_top1(sides, drawn, method.confidence),
        **_other_stabilities(sides, method, generator),
        "p_value": _p_values(sides, method, generator),
    }
    return {**columns, "q_value": benjamini_hochberg(columns["p_value"])}


def _bootstrap(sides: Sides, method: Method, rng: np.random.Generator) -> tuple[Weights, Weights]:
    first = bootstrap(len(sides[0].tokens), method.resamples, rng)
    return first, first if method.paired else bootstrap(len(sides[1].tokens), method.resamples, rng)


def risk_differences(sides: Sides, weights: tuple[Weights, Weights]) -> Matrix:
    """Token-pooled risk difference of every resample and expert."""
    first, second = (
        ratios(drawn, side.chosen, side.tokens) for side, drawn in zip(sides, weights, strict=True)
    )
    first -= second
    return first


def stability(differences: Matrix, top: int) -> Column:
    """Share of resamples in which each expert is among the `top` by |difference|, ties by index.

    An expert without any difference is never among them.
    """
    size = np.abs(differences)
    best = np.argsort(-size, axis=1, kind="stable")[:, :top]
    inside = np.zeros(size.shape, dtype=bool)
    np.put_along_axis(inside, best, values=True, axis=1)
    return np.asarray((inside & (size > 0)).mean(axis=0))


def rates(side: Side, block: slice = slice(None)) -> Float[np.ndarray, "prompts experts"]:
    """Share of each prompt's counted tokens that chose each expert of a block."""
    return np.asarray(side.chosen[:, block] / side.tokens[:, None])


def _tokens(sides: Sides) -> dict[str, Column]:
    counts = [side.chosen.sum(axis=0, dtype=np.int64) for side in sides]
    totals = [np.full(len(count), side.tokens.sum()) for side, count in zip(sides, counts, strict=True)]
    rate_1, rate_2 = (count / total for count, total in zip(counts, totals, strict=True))
    return {
        **{f"count_{number}": count for number, count in enumerate(counts, 1)},
        **{f"total_{number}": total for number, total in enumerate(totals, 1)},
        "rate_1": rate_1,
        "rate_2": rate_2,
        "risk_difference": rate_1 - rate_2,
        "log_odds_ratio": log_odds_ratio(counts[0], totals[0], counts[1], totals[1]),
    }


def _prompts(sides: Sides, weights: tuple[Weights, Weights], method: Method) -> dict[str, Column]:
    """Every prompt counts alike, however many of its tokens are counted."""
    experts = sides[0].chosen.shape[1]
    ones = [np.ones((1, len(side.tokens))) for side in sides]
    means = [_mean_rates(side, one)[0] for side, one in zip(sides, ones, strict=True)]
    first, second = (_mean_rates(side, drawn) for side, drawn in zip(sides, weights, strict=True))
    return {
        **{f"prompts_{number}": np.full(experts, len(side.tokens)) for number, side in enumerate(sides, 1)},
        **{f"prompt_rate_{number}": mean for number, mean in enumerate(means, 1)},
        "prompt_risk_difference": means[0] - means[1],
        **_interval(first - second, "prompt_ci", method.confidence),
    }


def _mean_rates(side: Side, weights: Weights) -> Matrix:
    """Weighted mean over prompts of each prompt's rates, of every resample and expert."""
    shares = weights / weights.sum(axis=1, keepdims=True)
    return by_blocks(side.chosen.shape[1], lambda block: shares @ rates(side, block), len(weights))


def _top1(sides: Sides, weights: tuple[Weights, Weights], confidence: float) -> dict[str, Column]:
    rate_1, rate_2 = (side.strongest.sum(axis=0) / side.tokens.sum() for side in sides)
    first, second = (
        ratios(drawn, side.strongest, side.tokens) for side, drawn in zip(sides, weights, strict=True)
    )
    return {
        "top1_rate_1": rate_1,
        "top1_rate_2": rate_2,
        "top1_difference": rate_1 - rate_2,
        **_interval(first - second, "top1_ci", confidence),
    }


def _interval(resampled: Matrix, name: str, confidence: float) -> dict[str, Column]:
    """Percentile interval of each expert (Efron and Tibshirani 1993, section 13.3)."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    return {f"{name}_low": low, f"{name}_high": high}


def _other_stabilities(sides: Sides, method: Method, rng: np.random.Generator) -> dict[str, Column]:
    splits = max(1, method.resamples // 2)
    first = halves(len(sides[0].tokens), splits, rng)
    second = first if method.paired else halves(len(sides[1].tokens), splits, rng)
    return {
        "half_stability": _stability_over(sides, (first, second), method.top),
        "category_stability": _stability_over(sides, _categories_left_out(sides), method.top),
    }


def _stability_over(sides: Sides, weights: tuple[Weights, Weights], top: int) -> Column:
    """Stability over the resamples that leave prompts on both sides; NaN with fewer than two of them."""
    whole = (weights[0].sum(axis=1) > 0) & (weights[1].sum(axis=1) > 0)
    if whole.sum() < 2:
        return np.full(sides[0].chosen.shape[1], np.nan)
    return stability(risk_differences(sides, (weights[0][whole], weights[1][whole])), top)


def _categories_left_out(sides: Sides) -> tuple[Weights, Weights]:
    groups = [[prompt.category for prompt in side.prompts] for side in sides]
    names = sorted({*groups[0], *groups[1]})
    return left_out(groups[0], names), left_out(groups[1], names)


def _p_values(sides: Sides, method: Method, rng: np.random.Generator) -> Column:
    first, second = sides
    n_1, n_2, experts = len(first.tokens), len(second.tokens), first.chosen.shape[1]
    if method.paired:
        flip = flips(n_1, rng, method.resamples)
        found = [flipped(rates(first, block) - rates(second, block), flip) for block in blocks(experts)]
    else:
        deal = permutations(n_1, n_2, rng, method.resamples)
        found = [permuted(rates(first, block), rates(second, block), deal) for block in blocks(experts)]
    return np.concatenate(found)
