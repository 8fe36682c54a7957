"""Cut work into batches that depend on the whole plan alone, so that a resumed run repeats them."""

from collections.abc import Sequence


def by_length(lengths: Sequence[int], names: Sequence[str], size: int) -> list[list[int]]:
    """Indices in batches of at most `size`, rows of similar length together (ties by name)."""
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], names[index]))
    return [order[start : start + size] for start in range(0, len(order), size)]
