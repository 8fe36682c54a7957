"""The unfinished training on disk, from which a killed one goes on."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from steer.artifacts.files import atomic_path, remove


@dataclass
class TrainingState:
    """How far a training has come.

    Args:
        path: the file it stands in.
        key: digest of all that decides the result; a file of another key is not taken up.
        stage: finished stages.
        step: finished steps of the stage under way.
        model: weights after them.
        optimizer: state of the optimiser.
    """

    path: Path
    key: str
    stage: int = 0
    step: int = 0
    model: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, key: str) -> "TrainingState":
        """The state saved at `path` under this key, or a fresh one."""
        if path.is_file():
            saved = torch.load(path, weights_only=True)
            if saved["key"] == key:
                return cls(path, **saved)
        return cls(path, key)

    def save(self) -> None:
        """Write the state, whole or not at all.

        Raises:
            SteerError: the disk is full, or the folder can't be written to.
        """
        content = {name: value for name, value in vars(self).items() if name != "path"}
        with atomic_path(self.path) as partial:
            torch.save(content, partial)

    def next_stage(self, weights: dict[str, Any]) -> None:
        """Note that the stage under way ended with `weights`."""
        self.stage, self.step, self.model, self.optimizer = self.stage + 1, 0, weights, {}

    def remove(self) -> None:
        """Remove the file: the training is finished."""
        remove(self.path)
