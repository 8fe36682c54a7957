"""The direction that the readout of a model takes for refusal."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steer.artifacts.prompts import Prompt
from steer.models.batching import by_length
from steer.models.contributions import watch
from steer.models.loading import LoadedModel
from steer.models.scoring import refusal_score


def readout_direction(
    loaded: LoadedModel, prompts: Sequence[Prompt], refusing: tuple[int, ...], batch_size: int
) -> Float[Tensor, " d"]:
    """Mean gradient of the refusal score by what leaves the last layer at the last prompt token.

    Nothing is estimated from how the classes differ, and no layer or position is chosen. The last block adds
    to the residual stream, so that the gradient by its output is the one by the residual that leaves it.

    Args:
        loaded: a model whose last layer is a MoE layer.
        prompts: of both classes.
        refusing: first tokens of refusals.
        batch_size: prompts of a pass.

    Raises:
        ValueError: the last layer has no experts.
    """
    if loaded.sites.moe_layers[-1:] != (len(loaded.sites.layers) - 1,):
        raise ValueError("the last layer has no experts")
    rows = [loaded.encode(prompt.text, prompt.before) for prompt in prompts]
    total = torch.zeros(loaded.hidden_size, dtype=torch.float64)
    for batch in by_length([len(row) for row in rows], [prompt.id for prompt in prompts], batch_size):
        seen = watch(
            loaded, loaded.batch([rows[at] for at in batch]), 1, lambda x: refusal_score(x[:, -1], refusing)
        )
        total += seen[-1].gradient[:, -1].double().sum(dim=0).cpu()
    return (total / len(rows)).float()
