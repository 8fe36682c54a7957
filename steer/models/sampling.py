"""Sampled replies, drawn so that only what is asked decides them: not the batch, the shard or the arm."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

from steer.artifacts.provenance import digest


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: what logits are divided by; 0 takes the likeliest token.
        top_p: share of probability that is kept, likeliest tokens first (Holtzman et al. 2020, section 3.1).
        samples: replies to every prompt, each with a sampling seed of its own.
        seed: of the study; with the sampling seed and the prompt's id it seeds a reply.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    seed: int = 0

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0

    @property
    def draws(self) -> list[int | None]:
        """The sampling seeds; None alone for greedy replies."""
        return [None] if self.greedy else [*range(self.samples)]

    def decides(self, draw: int | None) -> list[float | int]:
        """What decides a reply of a sampling seed beside prompt and model; how many there are does not."""
        return [] if draw is None else [self.temperature, self.top_p, self.seed, draw]

    def processors(self, names: Sequence[str], draw: int | None) -> list[LogitsProcessor]:
        """What makes the likeliest token the drawn one: for each row of a batch the prompt's id."""
        if draw is None:
            return []
        kept = [TopPLogitsWarper(self.top_p)] if self.top_p < 1 else []
        return [TemperatureLogitsWarper(self.temperature), *kept, GumbelMax(self.seed, draw, names)]


GREEDY = Sampling()


class GumbelMax(LogitsProcessor):
    """Adds standard Gumbel noise to logits, so that their maximum is a draw from their softmax.

    Gumbel (1954); as common random numbers it makes two distributions of total variation distance δ choose
    different tokens with a probability of 2δ / (1 + δ) at most: arms differ where their distributions do.

    Args:
        seed: of the study.
        draw: the sampling seed.
        names: prompt id of each row; rows after them get no noise.
    """

    def __init__(self, seed: int, draw: int, names: Sequence[str]) -> None:
        self._rows = [np.random.default_rng([seed, draw, int(digest([name]), 16)]) for name in names]

    def __call__(
        self,
        input_ids: Int[Tensor, "row token"],  # noqa: ARG002 - the library's signature
        scores: Float[Tensor, "row vocabulary"],
    ) -> Float[Tensor, "row vocabulary"]:
        """The logits of a step with the noise of that step."""
        width = scores.shape[-1]
        noise = np.stack([_gumbel(rng, width) for rng in self._rows])
        drawn = scores.clone()
        drawn[: len(noise)] += torch.from_numpy(noise).to(drawn)
        return drawn


def _gumbel(rng: np.random.Generator, count: int) -> Float[np.ndarray, " count"]:
    """-log of exponentials, which NumPy draws several times as fast as Gumbel noise itself."""
    return -np.log(np.maximum(rng.standard_exponential(count), np.finfo(np.float64).tiny))
