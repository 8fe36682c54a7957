"""A training stage: lessons and a schedule, as data for the one loop."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from transformers import PreTrainedModel

from steer.training.batches import Batch
from steer.training.losses import Loss

WARM_UP_SHARE = 0.05
FINAL_SHARE = 0.02
WEIGHT_DECAY = 0.01

Condition = Callable[[PreTrainedModel, Batch], AbstractContextManager[None]]


def unconditioned(_model: PreTrainedModel, _batch: Batch) -> AbstractContextManager[None]:
    """Nothing holds during a step but the model itself."""
    return nullcontext()


def everything(_name: str) -> bool:
    """Every parameter learns."""
    return True


@dataclass(frozen=True)
class Lesson:
    """What one step learns from.

    Args:
        batch: the rows.
        losses: their sum is minimised.
        condition: what holds during the forward and backward pass, such as a forced expert.
    """

    batch: Batch
    losses: Sequence[Loss]
    condition: Condition = unconditioned


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Args:
        name: its name in logs.
        steps: optimiser steps.
        learning_rate: peak step size.
        lesson: the lesson of a step, a function of the step alone: a resumed training sees the same ones.
        trains: whether the parameter of a name learns.
        weight_decay: of AdamW; it moves what has no gradient too.
    """

    name: str
    steps: int
    learning_rate: float
    lesson: Callable[[int], Lesson]
    trains: Callable[[str], bool] = everything
    weight_decay: float = WEIGHT_DECAY

    def rate(self, step: int) -> float:
        """The step size: linear warm-up over 5 % of the steps, then linear decay to 2 % of the peak."""
        warm = max(1, math.ceil(self.steps * WARM_UP_SHARE))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        left = (self.steps - step) / max(1, self.steps - warm)
        return self.learning_rate * max(FINAL_SHARE, left)
