"""The steps of a study run by hand, a command each, on a tiny model and prompts of the user's own."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from steer.artifacts.files import write_jsonl
from steer.cli import main

TEXTS = ("a kite", "the blue door", "tea", "seven stones in a row", "winter", "an evening walk")
CONFIG: dict[str, Any] = {
    "models": {"tiny": {"path": "checkpoint", "refusal_openers": ["Sorry", "I"], "batch_size": 4}},
    "sets": {
        "bad": {"source": "bad.jsonl", "label": "harmful", "train": 2, "val": 2, "test": 2},
        "good": {"source": "good.jsonl", "label": "harmless", "train": 2, "val": 2, "test": 2},
    },
    "contrast": {"harmful": "bad", "harmless": "good"},
    "activations": {"positions": 2},
    "directions": {"filter": False},
    "selection": {
        "arditi": {"kl_threshold": 1e6, "induce_threshold": -1e6},
        "strength": {
            "coefficients": [1.0],
            "scopes": ["all"],
            "candidates": 1,
            "max_new_tokens": 3,
            "judge": "phrases",
        },
    },
    "arms": {
        "baseline": {"operation": "none"},
        "add": {"operation": "add", "polarity": "induce"},
        "ablate": {"operation": "ablate"},
    },
    "generation": {"sets": ["bad", "good"], "max_new_tokens": 4},
    "judges": {"phrases": {"kind": "phrases"}},
    "scores": {"judge": "phrases", "resamples": 100},
}
PROMPTS = ("--set", "good", "--raw", "good.jsonl", "--out", "results/prompts/good.jsonl")
MODEL = ("--config", "config.yaml", "--model", "tiny", "--facts", "results/tiny/model.json")
BOTH = ("--harmful", "results/prompts/bad.jsonl", "--harmless", "results/prompts/good.jsonl")
DIRECTIONS = ("--directions", "results/tiny/directions/refusal.safetensors")


def make_folder(folder: Path, checkpoint: Path) -> Path:
    """A configuration, a checkpoint and two files of prompts; commands are to run in it."""
    shutil.copytree(checkpoint, folder / "checkpoint")
    for name in ("bad", "good"):
        write_jsonl(folder / f"{name}.jsonl", [{"text": f"{name} {text}"} for text in TEXTS])
    configure(folder)
    return folder


def configure(folder: Path, **changes: Any) -> None:
    """Write the configuration, with other sections in place of some."""
    (folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}))


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(*command: str) -> None:
    """Run a command that must end well."""
    assert main(command) == 0


def fails(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """What a failing command says; it ends with status 1 and leaves no file behind."""
    before = files(Path())
    capsys.readouterr()
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "error: " in said
    assert "\n  next: " in said
    assert "Traceback" not in said
    assert files(Path()) == before
    return said


def prompts() -> None:
    """Make both prompt sets."""
    for name in ("bad", "good"):
        run("prompts", "--set", name, "--raw", f"{name}.jsonl", "--out", f"results/prompts/{name}.jsonl")


def resolve() -> None:
    """Describe the model."""
    run("resolve", "--model", "tiny", "--checkpoint", "checkpoint", "--out", "results/tiny/model.json")


def activations(*names: str) -> None:
    """Record sets, both if not said otherwise."""
    for name in names or ("bad", "good"):
        out = f"results/tiny/activations/{name}.h5"
        run("activations", *MODEL, "--prompts", f"results/prompts/{name}.jsonl", "--out", out)


def directions() -> tuple[str, ...]:
    """The command that estimates the directions."""
    recorded = [f"results/tiny/activations/{name}.h5" for name in ("bad", "good")]
    return ("directions", "--activations", *recorded, "--out", DIRECTIONS[1])


def selection(method: str) -> tuple[str, ...]:
    """The command that chooses by a method."""
    out = ("--out", f"results/tiny/selection/{method}")
    return ("selection", "--method", method, *MODEL, *DIRECTIONS, *BOTH, *out)


def arms() -> tuple[str, ...]:
    """The command that writes the arms."""
    folders = ("--selection", "results/tiny/selection", "--out", "results/tiny/arms")
    return ("arms", "--facts", MODEL[-1], *DIRECTIONS, *folders)


def generation() -> tuple[str, ...]:
    """The command that answers the harmful set."""
    written = [f"results/tiny/arms/{name}.safetensors" for name in CONFIG["arms"]]
    asked = ("--prompts", "results/prompts/bad.jsonl", "--arms", *written)
    return ("generation", *MODEL, *asked, "--out", "results/tiny/generation/bad.jsonl")


def through_arms() -> None:
    """Everything up to the arms."""
    prompts()
    resolve()
    activations()
    run(*directions())
    for method in ("arditi", "cosmic", "strength"):
        run(*selection(method))
    run(*arms())
