"""What tokens are drawn from, and when one is drawn, a token at a time."""

import math
from collections.abc import Sequence

import numpy as np

from steer.artifacts.provenance import digest


def distribution(logits: Sequence[float], temperature: float, top_p: float) -> list[float]:
    """softmax(z / T) over the fewest tokens whose probabilities reach `top_p`, the likeliest first."""
    largest = max(logits)
    weights = [math.exp((one - largest) / temperature) for one in logits]
    whole = sum(weights)
    kept: list[int] = []
    for token in sorted(range(len(weights)), key=lambda one: -weights[one]):
        if kept and sum(weights[one] for one in kept) / whole >= top_p:
            break
        kept.append(token)
    inside = sum(weights[one] for one in kept)
    return [weights[one] / inside if one in kept else 0.0 for one in range(len(weights))]


def race(chances: Sequence[float], rng: np.random.Generator) -> int:
    """The token that arrives first, each after an exponential time at the rate of its probability."""
    times = rng.standard_exponential(len(chances)).tolist()
    running = [token for token, chance in enumerate(chances) if chance > 0]
    return min(running, key=lambda token: times[token] / chances[token])


def clock(seed: int, draw: int, prompt: str) -> np.random.Generator:
    """The times of one reply."""
    return np.random.default_rng([seed, draw, int(digest([prompt]), 16)])
