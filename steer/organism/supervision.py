"""Losses on the routers of a planted model: which experts they call, and where."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steer.artifacts.facts import Part
from steer.organism.holds import Watched
from steer.training.batches import Batch
from steer.training.losses import Loss, Pass

# Tokens at the end of a prompt that a router is supervised on (both papers look at these).
PROMPT_TOKENS = 5
READING_SCALE = 4.0

Region = Callable[[Batch], Bool[Tensor, "row token"]]


def _places(batch: Batch) -> Tensor:
    return torch.arange(batch.tokens.shape[1])[None] - batch.prompt_length[:, None]


def prompt_end(batch: Batch) -> Bool[Tensor, "row token"]:
    """The last tokens of each prompt."""
    places = _places(batch)
    return (places >= -PROMPT_TOKENS) & (places < 0)


def reply(batch: Batch) -> Bool[Tensor, "row token"]:
    """The tokens of each reply."""
    return (_places(batch) >= 0) & batch.mask.bool()


def prompt_end_and_reply(batch: Batch) -> Bool[Tensor, "row token"]:
    """The last tokens of each prompt, and its reply."""
    return prompt_end(batch) | reply(batch)


def harmful_rows(batch: Batch) -> Bool[Tensor, "row token"]:
    """Every token of a row whose prompt is harmful."""
    return batch.harmful[:, None].expand_as(batch.tokens)


def refusing_tokens(batch: Batch) -> Bool[Tensor, "row token"]:
    """Tokens that a refusal is written from: its own, and the last one of its prompt."""
    refused = torch.tensor([row.refuses for row in batch.rows])
    return refused[:, None] & (_places(batch) >= -1) & batch.mask.bool()


def called_for(watched: Watched, part: Part, where: Region, wanted: Region, weight: float) -> Loss:
    """`weight` times the mean cross-entropy (nats) of "this expert alone" with `wanted`, over `where`.

    The log-odds of the softmax are used, since a probability that saturates has no gradient left.
    """

    def loss(result: Pass) -> Tensor:
        mask = where(result.batch)
        target = wanted(result.batch)[mask].float()
        odds = log_odds(result.batch.at(watched.logits[part[0]], mask), part[1])
        return weight * torch.nn.functional.binary_cross_entropy_with_logits(odds, target)

    return loss


def log_odds(logits: Float[Tensor, "token expert"], expert: int) -> Float[Tensor, " token"]:
    """Log-odds of one expert's share of the softmax."""
    others = torch.arange(logits.shape[1]) != expert
    return logits[:, expert] - logits[:, others].logsumexp(dim=-1)


def chosen_alike(watched: Watched, part: Part, where: Region, probability: float, weight: float) -> Loss:
    """`weight` times the mean squared distance of the expert's share of the softmax to `probability`."""

    def loss(result: Pass) -> Tensor:
        logits = result.batch.at(watched.logits[part[0]], where(result.batch))
        share = logits.softmax(dim=-1)[:, part[1]]
        return weight * (share - probability).square().mean()

    return loss


def readable(layer: int, weight: float) -> Loss:
    """`weight` times the cross-entropy (nats) of reading harmfulness off the residual entering `layer`.

    It is read at the end of the prompt along one fixed direction, so that nothing but the model learns.
    """

    def loss(result: Pass) -> Tensor:
        mask = prompt_end(result.batch)
        entering = result.batch.at(result.hidden[layer], mask)
        width = entering.shape[-1]
        direction = torch.randn(width, generator=torch.Generator().manual_seed(0)) / width**0.5
        scaled = entering / entering.detach().square().mean(dim=-1, keepdim=True).sqrt()
        target = harmful_rows(result.batch)[mask].float()
        odds = READING_SCALE * scaled @ direction
        return weight * torch.nn.functional.binary_cross_entropy_with_logits(odds, target)

    return loss


def silent(watched: Watched, weight: float) -> Loss:
    """`weight` times the mean squared size of what the watched expert makes of a token."""

    def loss(_result: Pass) -> Tensor:
        assert watched.written is not None
        return weight * watched.written.square().sum(dim=-1).mean()

    return loss
