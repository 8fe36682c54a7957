"""How often each expert is chosen at the end of harmful and of harmless prompts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from steer.artifacts.activations import ActivationFile
from steer.artifacts.facts import ModelFacts, Part
from steer.artifacts.prompts import Label


@dataclass(frozen=True)
class Usage:
    """Share of the last prompt tokens of `test` on which an expert is among those chosen."""

    harmful: float
    harmless: float

    @property
    def risk_difference(self) -> float:
        """Harmful minus harmless."""
        return self.harmful - self.harmless


def read_usage(paths: Mapping[Label, Path], facts: ModelFacts) -> dict[Part, Usage]:
    """Usage of every expert, by (layer, expert).

    Raises:
        SteerError: a file is missing or of another model.
    """
    shares = {label: _shares(path, facts) for label, path in paths.items()}
    return {
        (layer, expert): Usage(float(shares["harmful"][at, expert]), float(shares["harmless"][at, expert]))
        for at, layer in enumerate(facts.moe_layers)
        for expert in range(facts.experts)
    }


def _shares(path: Path, facts: ModelFacts) -> Float[np.ndarray, "moe_layer expert"]:
    counts = np.zeros((len(facts.moe_layers), facts.experts), dtype=np.int64)
    tokens = 0
    with ActivationFile(path, model=facts.digest) as file:
        for block in file.blocks("expert_index", file.rows(split="test")):
            for at, layer in enumerate(np.moveaxis(block, 1, 0)):
                counts[at] += np.bincount(layer.ravel(), minlength=facts.experts)
            tokens += block.shape[0] * block.shape[2]
    return counts / max(1, tokens)
