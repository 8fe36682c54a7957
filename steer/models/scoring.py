"""Scores of a next-token distribution."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steer.errors import SteerError


def log_probabilities(logits: Float[Tensor, "batch vocabulary"]) -> Float[Tensor, "batch vocabulary"]:
    """Logarithms of the next token's probabilities, in float64."""
    return torch.log_softmax(logits.double(), dim=-1)


def refusal_score(
    logits: Float[Tensor, "batch vocabulary"], refusal_token_ids: tuple[int, ...]
) -> Float[Tensor, " batch"]:
    """Log-odds, in nats, that the reply's first token is one that refusals begin with.

    Source: Arditi et al. (arXiv 2406.11717), appendix B; temperature 1, no epsilon: computed in
    float64 as log Σ_refusal p − log Σ_other p, so that it stays finite far from even odds.
    """
    return refusal_odds(log_probabilities(logits), refusal_token_ids)


def refusal_odds(
    log_p: Float[Tensor, "batch vocabulary"], refusal_token_ids: tuple[int, ...]
) -> Float[Tensor, " batch"]:
    """The refusal score of a distribution given as log-probabilities."""
    yes, no = _log_sums(log_p, refusal_token_ids)
    return yes - no


def _log_sums(
    values: Float[Tensor, "batch vocabulary"], refusal_token_ids: tuple[int, ...]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Log Σ exp over the tokens that refusals begin with, and over all others."""
    refusing = torch.tensor(refusal_token_ids, device=values.device)
    yes = torch.logsumexp(values[:, refusing], dim=-1)
    return yes, torch.logsumexp(values.index_fill(-1, refusing, -torch.inf), dim=-1)


def kl_divergence(
    baseline: Float[Tensor, "batch vocabulary"], steered: Float[Tensor, "batch vocabulary"]
) -> Float[Tensor, " batch"]:
    """KL(baseline ‖ steered) of next-token distributions given as logits, in nats, in float64."""
    return divergence(log_probabilities(baseline), log_probabilities(steered))


def divergence(
    log_p: Float[Tensor, "batch vocabulary"], log_q: Float[Tensor, "batch vocabulary"]
) -> Float[Tensor, " batch"]:
    """KL(p ‖ q) of distributions given as log-probabilities, in nats."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def check_finite(arm: str, prompt: str, dtype: torch.dtype, *values: float) -> None:
    """Check numbers that an arm's logits on a prompt gave, before they are written.

    Raises:
        SteerError: one is infinite or not a number, as where activations outgrow the type of numbers.
    """
    if not all(math.isfinite(value) for value in values):
        name = str(dtype).removeprefix("torch.")
        raise SteerError(
            f"arm `{arm}`" + (f", prompt `{prompt}`" if prompt else ""),
            f"gives logits that are infinite or not a number, in {name}",
            "set `dtype: bfloat16` of the model, or a smaller coefficient of the arm",
        )


@dataclass(frozen=True)
class Distributions:
    """Next-token distributions that many others are compared with, each by one exponential of its logits.

    Attributes:
        p: their probabilities, in float64.
        negentropy: Σ p log p of each, in nats.
    """

    p: Float[Tensor, "batch vocabulary"]
    negentropy: Float[Tensor, " batch"]

    @classmethod
    def of(cls, logits: Float[Tensor, "batch vocabulary"]) -> "Distributions":
        """The distributions that logits give."""
        log_p = log_probabilities(logits)
        p = log_p.exp()
        return cls(p, (p * log_p).sum(dim=-1))

    def compare(
        self,
        rows: Int[Tensor, " jobs"],
        logits: Float[Tensor, "jobs vocabulary"],
        refusal_token_ids: tuple[int, ...],
    ) -> tuple[Float[Tensor, " jobs"], Float[Tensor, " jobs"]]:
        """Refusal scores of others, and KL of the distribution at `rows` from each, both in nats."""
        logits = logits.double()
        yes, no = _log_sums(logits, refusal_token_ids)
        # KL = Σ p log p − Σ p logits + log Σ exp logits.
        crossed = torch.einsum("bv,bv->b", self.p[rows], logits)
        return yes - no, self.negentropy[rows] - crossed + torch.logaddexp(yes, no)
