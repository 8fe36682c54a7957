"""Routing statistics by hand: prompt by prompt and token by token, in plain Python."""

import math
import random
from collections.abc import Sequence
from itertools import combinations, product

Tokens = Sequence[Sequence[float]]
"""Router logits of one layer: a row per token, a number per expert."""


def chosen(logits: Sequence[float], top_k: int) -> list[int]:
    """Experts of one token, the strongest first."""
    return sorted(range(len(logits)), key=lambda expert: -logits[expert])[:top_k]


def counts(prompt: Tokens, expert: int, top_k: int) -> tuple[int, int]:
    """Tokens of a prompt that chose an expert, and tokens of which it is the strongest."""
    picks = [chosen(token, top_k) for token in prompt]
    return sum(expert in pick for pick in picks), sum(expert == pick[0] for pick in picks)


def pooled(counted: Sequence[int], tokens: Sequence[int]) -> float:
    return sum(counted) / sum(tokens)


def mean_rate(counted: Sequence[int], tokens: Sequence[int]) -> float:
    return sum(count / total for count, total in zip(counted, tokens, strict=True)) / len(tokens)


def bootstrap(
    first: Sequence[tuple[int, int]], second: Sequence[tuple[int, int]], resamples: int
) -> list[float]:
    """Token-pooled differences of prompts drawn with replacement, sorted; (count, tokens) a prompt."""
    rng = random.Random(0)
    found = []
    for _ in range(resamples):
        one = [rng.choice(first) for _ in first]
        two = [rng.choice(second) for _ in second]
        found.append(pooled(*zip(*one, strict=True)) - pooled(*zip(*two, strict=True)))
    return sorted(found)


def permutation_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Exact p-value over every relabelling."""
    together = [*first, *second]
    observed = abs(sum(first) / len(first) - sum(second) / len(second))
    reached = total = 0
    for chosen_ones in combinations(range(len(together)), len(first)):
        one = [together[at] for at in chosen_ones]
        rest = (sum(together) - sum(one)) / len(second)
        reached += abs(sum(one) / len(first) - rest) >= observed - 1e-9
        total += 1
    return reached / total


def sign_flip_p(differences: Sequence[float]) -> float:
    """Exact p-value over every choice of signs."""
    observed = abs(sum(differences))
    signs = list(product([1, -1], repeat=len(differences)))
    reached = sum(
        abs(sum(s * d for s, d in zip(choice, differences, strict=True))) >= observed - 1e-9
        for choice in signs
    )
    return reached / len(signs)


def in_top(differences: Sequence[float], top: int) -> list[bool]:
    order = sorted(range(len(differences)), key=lambda at: (-abs(differences[at]), at))[:top]
    return [at in order and differences[at] != 0 for at in range(len(differences))]


def log_odds(count_1: int, total_1: int, count_2: int, total_2: int) -> float:
    odds = [
        (count + 0.5) / (total - count + 0.5) for count, total in ((count_1, total_1), (count_2, total_2))
    ]
    return math.log(odds[0]) - math.log(odds[1])
