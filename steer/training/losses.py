"""Losses of a training step, each a function of one forward pass."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from steer.training.batches import Batch
from steer.training.unpadded import unpadded_hidden


@dataclass(frozen=True)
class Pass:
    """One forward pass over a batch.

    Args:
        model: the model in training.
        batch: what it read.
        hidden: the residual stream entering each layer and leaving the last, to be read by `Batch.at`.
    """

    model: PreTrainedModel
    batch: Batch
    hidden: tuple[Float[Tensor, "*token d"], ...]


Loss = Callable[[Pass], Tensor]


def run(model: PreTrainedModel, batch: Batch) -> Pass:
    """Run the decoder, without the output layer: only the targets' positions need it."""
    if batch.unpadded:
        return Pass(model, batch, unpadded_hidden(model, batch))
    if batch.entering is None:
        read = {"input_ids": batch.tokens, "attention_mask": batch.mask}
    else:
        # Padding stands behind the rows, where causal attention never looks: without a mask it is faster.
        read = {"inputs_embeds": batch.entering}
    output = model.get_decoder()(**read, use_cache=False, output_hidden_states=True)
    return Pass(model, batch, output.hidden_states)


def next_token_loss(result: Pass) -> Tensor:
    """Weighted mean cross-entropy (nats) of the reply's tokens, each given the tokens before it."""
    batch = result.batch
    weight = batch.weight[:, 1:]
    learned = weight > 0
    # The state that a token is read off stands one place before it.
    before = torch.nn.functional.pad(learned, (0, 1))
    logits = result.model.get_output_embeddings()(batch.at(result.hidden[-1], before))
    each = torch.nn.functional.cross_entropy(logits, batch.tokens[:, 1:][learned], reduction="none")
    return (each * weight[learned]).sum() / weight[learned].sum()
