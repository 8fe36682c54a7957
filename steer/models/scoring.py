"""Scores of a next-token distribution."""

import torch
from jaxtyping import Float
from torch import Tensor


def refusal_score(
    logits: Float[Tensor, "batch vocabulary"], refusal_token_ids: tuple[int, ...]
) -> Float[Tensor, " batch"]:
    """Log-odds, in nats, that the reply's first token is one that refusals begin with.

    Source: Arditi et al. (arXiv 2406.11717), appendix B; temperature 1, no epsilon: computed in
    float64 as log Σ_refusal p − log Σ_other p, so that it stays finite far from even odds.
    """
    log_p = torch.log_softmax(logits.double(), dim=-1)
    refusing = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    refusing[list(refusal_token_ids)] = True
    yes = torch.logsumexp(log_p[:, refusing], dim=-1)
    no = torch.logsumexp(log_p[:, ~refusing], dim=-1)
    return yes - no


def kl_divergence(
    baseline: Float[Tensor, "batch vocabulary"], steered: Float[Tensor, "batch vocabulary"]
) -> Float[Tensor, " batch"]:
    """KL(baseline ‖ steered) of next-token distributions given as logits, in nats, in float64."""
    p, q = (torch.log_softmax(logits.double(), dim=-1) for logits in (baseline, steered))
    return (p.exp() * (p - q)).sum(dim=-1)
