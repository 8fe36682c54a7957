"""The refusal direction at the layer and position that a selection method chose."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open

from steer.errors import SteerError
from steer.figures.inputs import read_choice

NAMES = ("residual.direction", "residual.harmless_mean", "attention_out.direction", "mlp_out.direction")
REBUILD = "remove it and run `directions` and `selection` again"


class Direction(NamedTuple):
    """A refusal direction and what was added to the residual stream on its way.

    Args:
        model: digest of the checkpoint that it was read from.
        layer: layer whose entering residual it was read from.
        position: token position from the end of the prompt, -1 last.
        vector: mean of harmful minus mean of harmless activations.
        harmless_mean: mean of harmless activations at the same place.
        embedding: the difference that the token embedding brings in.
        attention: the difference that attention of each layer below adds.
        mlp: the difference that the MLP of each layer below adds.
    """

    model: str
    layer: int
    position: int
    vector: Float[np.ndarray, " d"]
    harmless_mean: Float[np.ndarray, " d"]
    embedding: Float[np.ndarray, " d"]
    attention: Float[np.ndarray, "layer d"]
    mlp: Float[np.ndarray, "layer d"]

    @property
    def norm(self) -> float:
        """Length of the direction, in units of the residual stream."""
        return float(np.linalg.norm(self.vector))


def chosen_direction(tensors_path: Path, choice_path: Path) -> Direction:
    """Read the direction at the chosen place, in float64.

    Raises:
        SteerError: a file is missing or damaged, the choice lies outside it, or the direction is zero.
    """
    layer, position = read_choice(choice_path)
    try:
        with safe_open(tensors_path, framework="np") as stored:
            model = (stored.metadata() or {}).get("model", "")
            at = {name: stored.get_tensor(name)[:, position].astype(np.float64) for name in NAMES}
        read = Direction(
            model,
            layer,
            position,
            at["residual.direction"][layer],
            at["residual.harmless_mean"][layer],
            at["residual.direction"][0],
            at["attention_out.direction"][:layer],
            at["mlp_out.direction"][:layer],
        )
    except FileNotFoundError as error:
        raise SteerError(str(tensors_path), "no such file", "run the stage `directions` first") from error
    except (SafetensorError, IndexError) as error:
        cause = f"holds no direction at layer {layer}, position {position} ({error})"
        raise SteerError(str(tensors_path), cause, REBUILD) from error
    if read.norm == 0:
        cause = f"the direction at layer {layer}, position {position} is zero"
        raise SteerError(str(tensors_path), cause, "choose another layer or position")
    return read
