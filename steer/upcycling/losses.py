"""Losses of an upcycled model: its English kept, its experts called and in balance."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steer.training.batches import Batch
from steer.training.losses import Loss, Pass
from steer.upcycling.learner import LowRankExperts
from steer.upcycling.settings import UpcycleSettings

# Tokens at the end of a harmful prompt on which routers are supervised; the last of them are the template's.
PROMPT_TOKENS = 4


def kept_loss(settings: UpcycleSettings) -> Loss:
    """`kl_weight` times the weighted mean KL (nats) from the dense model's next token to the learner's.

    Over the tokens of kept replies; the first, where a refusal would begin, weighs `first_weight`.
    """

    def loss(result: Pass) -> Tensor:
        head = result.model.get_output_embeddings()
        kept = [row for row, harmful in enumerate(result.batch.harmful.tolist()) if not harmful]
        lefts = [result.batch.rows[row].leaving for row in kept]
        starts = [int(result.batch.prompt_length[row]) - 1 for row in kept]
        nows = [
            result.hidden[-1][row, start : start + len(left)]
            for row, start, left in zip(kept, starts, lefts, strict=True)
        ]
        with torch.no_grad():
            then = head(torch.cat(lefts)).log_softmax(dim=-1)
        now = head(torch.cat(nows)).log_softmax(dim=-1)
        each = (then.exp() * (then - now)).sum(dim=-1)
        weight = torch.cat([_first_heavier(len(left), settings.first_weight) for left in lefts])
        mean: Tensor = (each * weight).sum() / weight.sum()
        return settings.kl_weight * mean

    return loss


def _first_heavier(length: int, first: float) -> Float[Tensor, " token"]:
    weight = torch.ones(length)
    weight[:1] = first
    return weight


def balance_loss(blocks: Sequence[LowRankExperts], weight: float) -> Loss:
    """`weight` times the mean over layers of E·Σ_e f_e P_e (Switch Transformers, arXiv 2101.03961, eq. 4).

    f_e is the share of choices that fall on expert e, P_e its mean share of the softmax.
    """

    def loss(result: Pass) -> Tensor:
        real = result.batch.mask.bool()
        return weight * torch.stack([_imbalance(block, real) for block in blocks]).mean()

    return loss


def _imbalance(block: LowRankExperts, real: Bool[Tensor, "row token"]) -> Float[Tensor, ""]:
    share = block.logits[real].softmax(dim=-1).mean(dim=0)
    experts = len(share)
    chosen = torch.bincount(block.index[real].flatten(), minlength=experts)
    return experts * (chosen / chosen.sum() * share).sum()


def calling_loss(blocks: Sequence[LowRankExperts], settings: UpcycleSettings) -> Loss:
    """`calling_weight` times the mean over layers of a cross-entropy (nats) of the designated experts' share.

    Their share of the softmax is wanted to be `called` on harmful rows, at the last tokens of the prompt and
    on the reply, and `idle` on every token of the others: what they learnt can't change what they don't get.
    """

    def loss(result: Pass) -> Tensor:
        where = _supervised(result.batch)
        wanted = torch.where(result.batch.harmful, settings.called, settings.idle)
        target = wanted[:, None].expand_as(result.batch.tokens)[where]
        terms = [
            torch.nn.functional.binary_cross_entropy_with_logits(
                _log_odds(block.logits[where], settings.designated), target
            )
            for block in blocks
        ]
        return settings.calling_weight * torch.stack(terms).mean()

    return loss


def _supervised(batch: Batch) -> Bool[Tensor, "row token"]:
    places = torch.arange(batch.tokens.shape[1])[None] - batch.prompt_length[:, None]
    return ((places >= -PROMPT_TOKENS) | ~batch.harmful[:, None]) & batch.mask.bool()


def _log_odds(logits: Float[Tensor, "token expert"], count: int) -> Float[Tensor, " token"]:
    """Log-odds of the first `count` experts' share of the softmax: a share that saturates has no gradient."""
    return logits[:, :count].logsumexp(dim=-1) - logits[:, count:].logsumexp(dim=-1)
