"""Losses of the embedded model alone."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from steer.training.losses import Loss, Pass, run


def anchor_loss(reference: PreTrainedModel, weight: float) -> Loss:
    """A tie of the harmless rows to a frozen model.

    `weight` times the mean over layers of the squared distance between both residual streams,
    relative to the squared norm of the reference's. It keeps stage 2 from moving everything,
    so that refusal stays one feature that can be taken away.
    """

    def loss(result: Pass) -> Tensor:
        batch = result.batch
        if batch.harmful.all():
            return torch.zeros(())
        harmless = batch.of_rows(~batch.harmful)
        every, inside = harmless.mask.bool(), batch.mask.bool() & ~batch.harmful[:, None]
        with torch.no_grad():
            kept = [harmless.at(hidden, every) for hidden in run(reference, harmless).hidden]
        parts = [
            (batch.at(now, inside) - then).square().sum() / then.square().sum()
            for now, then in zip(result.hidden[1:], kept[1:], strict=True)
        ]
        return weight * torch.stack(parts).mean()

    return loss
