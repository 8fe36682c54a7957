"""Log-likelihood of offered answers under a causal language model, exact in ragged batches."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steer.models.loading import Batch, left_padded


@torch.inference_mode()
def offer_log_likelihoods(
    model: Any, contexts: Sequence[Sequence[int]], offers: Sequence[Sequence[int]], padding: int = 0
) -> Float[Tensor, "context offer"]:
    """Summed log-likelihood of each offer's tokens after each context, in nats, in float32 on the CPU.

    The contexts, of any lengths, are read once; only the offers' further tokens, if they have any,
    are read for every offer, from a copy of the cache.
    """
    batch = left_padded(contexts, padding, model.device)
    longest = max(len(offer) for offer in offers)
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=longest > 1,
        logits_to_keep=1,
    )
    log_p = torch.log_softmax(output.logits[:, -1].float(), dim=-1)
    scores = log_p[:, [offer[0] for offer in offers]]
    if longest > 1:
        scores = scores + _further_tokens(model, batch, output.past_key_values, offers)
    return scores.cpu()


def _further_tokens(
    model: Any, batch: Batch, cache: Any, offers: Sequence[Sequence[int]]
) -> Float[Tensor, "context offer"]:
    """Log-likelihood of all tokens of each offer but its first; 0 where there are none."""
    n, count, device = len(batch.input_ids), len(offers), batch.input_ids.device
    width = max(len(offer) for offer in offers) - 1
    read = torch.zeros(count, width, dtype=torch.long)
    wanted = torch.zeros_like(read)
    real = torch.zeros(count, width, dtype=torch.bool)
    for row, offer in enumerate(offers):
        rest = len(offer) - 1
        read[row, :rest], wanted[row, :rest], real[row, :rest] = (
            torch.tensor(offer[:-1]),
            torch.tensor(offer[1:]),
            1,
        )
    cache.batch_repeat_interleave(count)
    mask = batch.attention_mask.repeat_interleave(count, dim=0)
    ends = batch.position_ids[:, -1:].repeat_interleave(count, dim=0) + 1
    logits = model(
        input_ids=read.repeat(n, 1).to(device),
        attention_mask=torch.cat([mask, torch.ones_like(mask[:, :1]).expand(-1, width)], dim=1),
        position_ids=ends + torch.arange(width, device=device),
        past_key_values=cache,
    ).logits.float()
    chosen = logits.gather(-1, wanted.repeat(n, 1).to(device)[..., None])[..., 0]
    log_p: Tensor = (chosen - logits.logsumexp(dim=-1)).view(n, count, width)
    # Not a product: what stands at padding may be infinite.
    return log_p.where(real.to(device), 0.0).sum(dim=-1)
