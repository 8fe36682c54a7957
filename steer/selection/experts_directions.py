"""The directions of experts, as the selection and the arms read them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steer.artifacts.facts import ModelFacts
from steer.artifacts.tensors import read_tensors
from steer.errors import SteerError

Estimator = Literal["forced", "routed"]


@dataclass(frozen=True)
class ExpertDirections:
    """Directions of every expert of every MoE layer, at the last P prompt tokens (contract, section 3)."""

    forced: Float[Tensor, "moe_layers experts positions d"]
    routed: Float[Tensor, "moe_layers experts positions d"]
    count: Int[Tensor, "2 moe_layers experts positions"]
    moe_layers: tuple[int, ...]
    top_k: int

    @property
    def experts(self) -> int:
        """Experts of a layer."""
        return self.forced.shape[1]

    @property
    def positions(self) -> range:
        """Positions from the end, −P … −1."""
        return range(-self.forced.shape[2], 0)

    def of(self, estimator: Estimator) -> Float[Tensor, "moe_layers experts positions d"]:
        """All directions by one estimator."""
        return self.forced if estimator == "forced" else self.routed

    def at(
        self, estimator: Estimator, layer: int, experts: Sequence[int], position: int
    ) -> Float[Tensor, "experts_named d"]:
        """Directions of some experts of a layer at one position.

        Raises:
            SteerError: the layer has no experts, or an expert or the position is out of range.
        """
        row = self.row(layer)
        self.check(layer, experts)
        if position not in self.positions:
            raise SteerError(
                f"position {position}",
                f"no expert direction was estimated there, only at {self.positions[0]} to -1",
                "mend `position` of the arm",
            )
        return self.of(estimator)[row, list(experts), position]

    def row(self, layer: int) -> int:
        """Index of a layer among the MoE layers.

        Raises:
            SteerError: the layer has no experts.
        """
        if layer not in self.moe_layers:
            raise SteerError(
                f"layer {layer}",
                f"has no experts; the MoE layers are {', '.join(map(str, self.moe_layers))}",
                "mend the layer of the arm",
            )
        return self.moe_layers.index(layer)

    def check(self, layer: int, experts: Sequence[int]) -> None:
        """Check that a layer has some experts.

        Raises:
            SteerError: the layer has no experts, or not these.
        """
        self.row(layer)
        for expert in experts:
            if expert not in range(self.experts):
                raise SteerError(
                    f"expert {expert} of layer {layer}",
                    f"does not exist; a layer has experts 0 to {self.experts - 1}",
                    "mend `experts` of the arm",
                )

    def rates(self) -> dict[tuple[int, int], tuple[float, float]]:
        """Share of the last prompt tokens, of harmful and of harmless prompts, that call each expert."""
        calls = self.count.sum(dim=-1).double()
        # Every token calls the same number of experts.
        tokens = (calls.sum(dim=-1, keepdim=True) / self.top_k).clamp(min=1)
        harmful, harmless = (calls / tokens).tolist()
        return {
            (layer, expert): (harmful[row][expert], harmless[row][expert])
            for row, layer in enumerate(self.moe_layers)
            for expert in range(self.experts)
        }


def read_expert_directions(path: Path, facts: ModelFacts, positions: int) -> ExpertDirections:
    """Read `directions/experts.safetensors` of a model.

    Raises:
        SteerError: the model is dense, or the file is missing, of another model, or of other shapes.
    """
    if not facts.moe_layers:
        raise SteerError(facts.path, "is dense: it has no experts", "study a model with MoE layers")
    shape = (len(facts.moe_layers), facts.experts, positions, facts.hidden_size)
    names = ("forced.direction", "routed.direction")
    tensors = read_tensors(path, model=facts.digest, shapes=dict.fromkeys(names, shape)).tensors
    count = tensors["routed.count"].to(torch.int64)
    return ExpertDirections(tensors[names[0]], tensors[names[1]], count, facts.moe_layers, facts.top_k)
