"""Controls of experts, found by going through all experts one by one."""

from collections.abc import Sequence

Expert = tuple[int, int]
Counts = Sequence[Sequence[Sequence[Sequence[int]]]]
"""How often each expert was called, `[class][layer][expert][position]`, harmful prompts first."""


def rate(counts: Counts, side: int, layer: int, expert: int, top_k: int) -> float:
    """Share of the tokens of a class that call an expert; each token calls `top_k` of its layer."""
    calls = [sum(positions) for positions in counts[side][layer]]
    return calls[expert] * top_k / sum(calls)


def controls(
    counts: Counts, experts: Sequence[Expert], top_k: int, pool: int, *, suppress: bool, seed: int
) -> list[Expert]:
    """For each expert the next of its layer whose rate on the class of the effect is least far away.

    One after another the nearest that is free is struck off, as often as the seed says, counting round the
    `pool` nearest.
    """
    side = 0 if suppress else 1
    found: list[Expert] = []
    for layer, expert in experts:
        own = rate(counts, side, layer, expert, top_k)
        free = [one for one in range(len(counts[side][layer])) if (layer, one) not in [*experts, *found]]
        nearest: list[int] = []
        while free and len(nearest) < pool:
            best = free[0]
            for one in free:
                if abs(rate(counts, side, layer, one, top_k) - own) < abs(
                    rate(counts, side, layer, best, top_k) - own
                ):
                    best = one
            nearest.append(best)
            free.remove(best)
        found.append((layer, nearest[seed % len(nearest)]))
    return found
