"""Directions, and activations around them."""

from pathlib import Path

import h5py
import numpy as np
from safetensors.numpy import load_file, save_file

from steer.artifacts import CONTRACT_VERSION
from tests.figure_inputs.study import DIGEST, HIDDEN, LAYERS, POSITIONS


def write_directions(path: Path, rng: np.random.Generator, slip: float = 0.0) -> None:
    """Directions whose parts add up; `slip` is added to one of them, so that they don't."""
    attention = rng.normal(size=(LAYERS, POSITIONS, HIDDEN)) * np.linspace(0.2, 1, LAYERS)[:, None, None]
    mlp = rng.normal(size=(LAYERS, POSITIONS, HIDDEN)) + 0.4
    residual = np.concatenate([np.zeros((1, POSITIONS, HIDDEN)), np.cumsum(attention + mlp, axis=0)])
    attention[1] += slip
    harmless = rng.normal(size=residual.shape)
    tensors = {
        "residual.direction": residual,
        "residual.harmless_mean": harmless,
        "residual.harmful_mean": harmless + residual,
        "attention_out.direction": attention,
        "mlp_out.direction": mlp,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.astype(np.float32) for name, value in tensors.items()}, path, {"model": DIGEST})


def write_activations(path: Path, name: str, label: str, rng: np.random.Generator, n: int = 90) -> None:
    """Residuals around the two class means of the directions beside them, with splits."""
    tensors = load_file(path.parent.parent / "directions" / "refusal.safetensors")
    mean = tensors[f"residual.{label}_mean"]
    outside = 0.0 if name in ("harmful", "harmless") else 0.3
    shifted = mean + outside * (tensors["residual.harmless_mean"] + tensors["residual.direction"] / 2 - mean)
    path.parent.mkdir(parents=True, exist_ok=True)
    splits = ["test"] * n if outside else [("train", "val", "test")[row % 3] for row in range(n)]
    with h5py.File(path, "w") as store:
        store["residual"] = (shifted + rng.normal(size=(n, *mean.shape)) * 0.8).astype(np.float32)
        store["split"] = splits
        store["label"] = [label] * n
        store["prompt_id"] = [f"{name}-{row:03d}" for row in range(n)]
        attributes = {"contract": CONTRACT_VERSION, "complete": True, "model": DIGEST, "revision": ""}
        store.attrs.update(
            {**attributes, "positions": POSITIONS, "moe_layers": [], "provenance": "{}", "span": "positions"}
        )
