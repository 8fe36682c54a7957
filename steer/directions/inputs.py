"""The recorded inputs of MoE blocks, some prompts at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steer.artifacts.activations import ActivationFile
from steer.artifacts.files import read_json
from steer.artifacts.prompts import Label
from steer.directions.refusal import LABELS
from steer.errors import SteerError

CHUNK_BYTES = 2**28
"""Block inputs held at a time: many tokens an expert call, whatever the number of prompts."""


@dataclass(frozen=True)
class Chunk:
    """Some prompts of one label: what every MoE block was given, and which experts it chose."""

    label: Label
    inputs: Float[Tensor, "n moe_layers positions d"]
    chosen: Int[Tensor, "n moe_layers positions chosen"]


def rows_of(files: Sequence[ActivationFile], record: Path) -> dict[Label, list[list[int]]]:
    """Rows of each file that hold the prompts of each class, as the refusal direction used them.

    Raises:
        SteerError: the record names a prompt that no file holds.
    """
    kept = read_json(record)
    rows: dict[Label, list[list[int]]] = {}
    for label in LABELS:
        wanted = set(kept[label])
        rows[label] = [[row for row, name in enumerate(file.prompt_ids) if name in wanted] for file in files]
        found = {file.prompt_ids[row] for file, mine in zip(files, rows[label], strict=True) for row in mine}
        if found != wanted:
            raise SteerError(
                str(record),
                f"names {label} prompts that no activation file holds, such as `{min(wanted - found)}`",
                "run the directions stage again with these activation files",
            )
    return rows


class Reader:
    """The recorded block inputs of the prompts of both classes, some prompts at a time."""

    def __init__(
        self, files: Sequence[ActivationFile], rows: Mapping[Label, Sequence[Sequence[int]]]
    ) -> None:
        self._files, self._rows = files, rows
        self.shape = files[0].shape("moe_input")

    def prompts(self, label: Label) -> int:
        """Number of prompts of a class."""
        return sum(map(len, self._rows[label]))

    def chosen(self, label: Label) -> Iterator[Int[Tensor, "n moe_layers positions chosen"]]:
        """The experts chosen, without the block inputs."""
        for file, rows in zip(self._files, self._rows[label], strict=True):
            for block in file.blocks("expert_index", rows, size=512):
                yield torch.from_numpy(block.astype(np.int64))

    def chunks(self) -> Iterator[Chunk]:
        """All prompts of both classes."""
        size = max(1, CHUNK_BYTES // (4 * int(np.prod(self.shape))))
        for label in LABELS:
            for file, rows in zip(self._files, self._rows[label], strict=True):
                blocks = (file.blocks(name, rows, size) for name in ("moe_input", "expert_index"))
                for inputs, chosen in zip(*blocks, strict=True):
                    yield Chunk(label, torch.from_numpy(inputs), torch.from_numpy(chosen.astype(np.int64)))
