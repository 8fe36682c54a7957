"""Losses of the embedded model alone."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from steer.training.losses import Loss, Pass


def anchor_loss(reference: PreTrainedModel, weight: float) -> Loss:
    """A tie of the harmless rows to a frozen model.

    `weight` times the mean over layers of the squared distance between both residual streams,
    relative to the squared norm of the reference's. It keeps stage 2 from moving everything,
    so that refusal stays one feature that can be taken away.
    """

    def loss(result: Pass) -> Tensor:
        harmless = ~result.batch.harmful
        if not harmless.any():
            return torch.zeros(())
        mask = result.batch.mask[harmless].bool()
        with torch.no_grad():
            kept = reference.get_decoder()(
                input_ids=result.batch.tokens[harmless],
                attention_mask=result.batch.mask[harmless],
                use_cache=False,
                output_hidden_states=True,
            ).hidden_states
        parts = [
            (now[harmless][mask] - then[mask]).square().sum() / then[mask].square().sum()
            for now, then in zip(result.hidden[1:], kept[1:], strict=True)
        ]
        return weight * torch.stack(parts).mean()

    return loss
