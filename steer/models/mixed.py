"""Scores of rows under arms, many arms mixed in one batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steer.models.batching import by_length
from steer.models.companions import with_companions
from steer.models.interventions import Arm
from steer.models.loading import LoadedModel
from steer.models.steering import steer


@dataclass(frozen=True)
class Job:
    """One row to run.

    Attributes:
        arm: the intervention it runs under.
        tokens: its ids; all of them count as the prompt for the arm's scope.
        name: decides its place among rows of equal length.
        donor: ids of the paired prompt, for an arm that swaps.
    """

    arm: Arm
    tokens: Sequence[int]
    name: str
    donor: Sequence[int] = ()


Values = Float[Tensor, " batch"]
Value = Callable[[Float[Tensor, "batch kept vocabulary"], Sequence[int]], Values]


@torch.inference_mode()
def job_values(
    loaded: LoadedModel, jobs: Sequence[Job], batch_size: int, value: Value, keep: int = 1
) -> Float[Tensor, " jobs"]:
    """A number for every job, from one forward pass without a cache.

    Args:
        loaded: the model.
        jobs: an arm and a row each.
        batch_size: rows a forward pass.
        value: maps the logits of the last `keep` tokens, and the indices of their jobs, to a number each.
        keep: how many tokens' logits it needs.

    Raises:
        SteerError: an arm can't fire on this model.
    """
    found = torch.empty(len(jobs), dtype=torch.float64)
    names = [f"{job.name} {index:09d}" for index, job in enumerate(jobs)]
    for indices in by_length([len(job.tokens) for job in jobs], names, batch_size):
        here = [jobs[index] for index in indices]
        tokens, arms, donors = zip(*((job.tokens, job.arm, job.donor) for job in here), strict=True)
        whole = with_companions(tokens, arms, donors)
        batch = loaded.batch(whole.prompts)
        mask = batch.attention_mask
        with steer(loaded, whole.arms, mask, twins=whole.twins, donors=whole.donors):
            output = loaded.forward(batch, keep)
        found[indices] = value(output.logits[: len(here)], indices).double().cpu()
    return found
