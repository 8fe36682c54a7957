"""A training stage: batches, losses and a schedule, as data for the one loop."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from transformers import PreTrainedModel

from steer.training.batches import Batch
from steer.training.losses import Loss

WARM_UP_SHARE = 0.05
FINAL_SHARE = 0.02

Condition = Callable[[PreTrainedModel, Batch], AbstractContextManager[None]]


def unconditioned(_model: PreTrainedModel, _batch: Batch) -> AbstractContextManager[None]:
    """Nothing holds during a step but the model itself."""
    return nullcontext()


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Args:
        name: its name in logs and in the saved state.
        steps: optimiser steps.
        learning_rate: peak step size.
        batch: the batch of a step.
        losses: their sum is minimised.
        condition: what holds during a step's forward pass, such as a forced expert of a planted model.
    """

    name: str
    steps: int
    learning_rate: float
    batch: Callable[[int], Batch]
    losses: Sequence[Loss]
    condition: Condition = field(default=unconditioned)

    def rate(self, step: int) -> float:
        """The step size: linear warm-up over 5 % of the steps, then linear decay to 2 % of the peak."""
        warm = max(1, math.ceil(self.steps * WARM_UP_SHARE))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        left = (self.steps - step) / max(1, self.steps - warm)
        return self.learning_rate * max(FINAL_SHARE, left)
