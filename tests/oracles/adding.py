"""Adding expert directions by hand: one prompt, plain hooks, a loop over tokens and experts."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from steer.models.loading import LoadedModel


def _weight(weighting: str, expert: int, logits: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    """What multiplies the direction of an expert at one token."""
    if weighting == "one":
        return torch.ones(())
    if weighting == "full":
        return logits[expert].exp() / logits.exp().sum()
    chosen = [weight for weight, which in zip(weights, index.tolist(), strict=True) if which == expert]
    return chosen[0] if chosen else torch.zeros(())


@contextmanager
def adding(
    loaded: LoadedModel, layer: int, vectors: Mapping[int, Tensor], coefficient: Any, weighting: str
) -> Iterator[None]:
    """y <- y + c * sum over experts of w_e v_e at every token of one prompt; c may be a leaf of autograd."""
    block = loaded.model.model.layers[layer].mlp
    routed: list[Tensor] = []

    def route(_module: Any, _args: Any, output: Any) -> None:
        routed[:] = [part.detach() for part in output]

    def write(_module: Any, _args: Any, y: Tensor) -> Tensor:
        logits, weights, index = routed
        rows = [
            sum(
                (_weight(weighting, e, logits[t], weights[t], index[t]) * v for e, v in vectors.items()),
                torch.zeros(y.shape[-1]),
            )
            for t in range(y.shape[1])
        ]
        return y + coefficient * torch.stack(rows)

    handles = [block.gate.register_forward_hook(route), block.register_forward_hook(write)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
