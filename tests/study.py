"""A study of a tiny model on disk: facts, prompts and directions, as selection and generation find them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from steer.artifacts.facts import ModelFacts, write_facts
from steer.artifacts.files import write_json, write_jsonl
from steer.artifacts.prompts import Label, Prompt, Split
from steer.artifacts.tensors import write_tensors
from steer.config import ModelSettings, SetSettings
from steer.models.loading import LoadedModel
from steer.models.study import checkpoint_files
from steer.prompts import write_prompts
from steer.selection.candidates import Directions
from tests.activation_sets import facts_of
from tests.tiny import HIDDEN, LAYERS

GRAMMAR = Path(__file__).parents[1] / "data" / "grammar"
POSITIONS = 3
SPLITS: tuple[Split, ...] = ("val", "test", "train")
WORDS = ("red", "a kite", "seven stones", "or", "some winter evenings", "the", "tea", "up", "nine", "it")


def prompts_of(label: Label, count: int, splits: Sequence[Split] = SPLITS) -> list[Prompt]:
    """Prompts of many lengths, the splits in turn."""
    texts = [f"{label} {WORDS[index % 10]} {WORDS[index * 7 // 3 % 10]} {index}" for index in range(count)]
    return [
        Prompt(f"{label[:5]}{index}", text, label, splits[index % len(splits)])
        for index, text in enumerate(texts)
    ]


@dataclass(frozen=True)
class Study:
    """Where the files of a study are, and what they hold."""

    folder: Path
    loaded: LoadedModel
    facts: ModelFacts
    directions: Directions
    settings: ModelSettings

    def path(self, name: str) -> Path:
        """A file of the study."""
        return self.folder / name

    @property
    def inputs(self) -> tuple[Path, Path, Path, Path]:
        """Facts, directions and the two prompt sets, as the selection takes them."""
        names = ("model.json", "refusal.safetensors", "harmful.jsonl", "harmless.jsonl")
        return tuple(self.path(name) for name in names)  # type: ignore[return-value]

    def on(self, device: str) -> "Study":
        """The study with its model on another device."""
        return replace(self, settings=self.settings.model_copy(update={"device": device}))

    def write_prompts(self, label: Label, prompts: Sequence[Prompt]) -> Path:
        """Write (or replace) the prompt set of a label."""
        path = self.path(f"{label}.jsonl")
        write_jsonl(path, [prompt.__dict__ for prompt in prompts])
        return path

    def write_directions(self, directions: Directions, model: str | None = None) -> None:
        """Write (or replace) the directions, of this model if not said otherwise."""
        tensors = {
            "residual.direction": directions.direction,
            "residual.harmless_mean": directions.harmless_mean,
        }
        write_tensors(
            self.path("refusal.safetensors"), tensors, model=model or self.facts.digest, provenance={}
        )

    def write_choice(self, method: str, places: Sequence[tuple[int, int]]) -> None:
        """Write the choice of a selection method, best place first."""
        candidates = [{"layer": layer, "position": position} for layer, position in places]
        record = {"choice": candidates[0], "candidates": candidates, "why": "", "provenance": {}}
        write_json(self.path(f"{method}.json"), record)


def random_directions(scale: float = 1.0, seed: int = 0) -> Directions:
    """Directions that are zero at the input of layer 0, at the last position, as with real templates."""
    generator = torch.Generator().manual_seed(seed)
    shape = (LAYERS + 1, POSITIONS, HIDDEN)
    direction, mean = (torch.randn(shape, generator=generator) * scale for _ in range(2))
    direction[0, -1] = 0
    return Directions(direction, mean)


def make_study(folder: Path, loaded: LoadedModel, count: int = 12, **settings: Any) -> Study:
    """A study with `count` prompts a label."""
    path = Path(loaded.name)
    facts = replace(facts_of(loaded), path=str(path), files=checkpoint_files(path))
    model = ModelSettings(**{"path": str(path), "batch_size": 16, **settings})
    study = Study(folder, loaded, facts, random_directions(), model)
    folder.mkdir(parents=True, exist_ok=True)
    write_facts(study.path("model.json"), facts, {})
    study.write_directions(study.directions)
    for label in ("harmful", "harmless"):
        study.write_prompts(label, prompts_of(label, count))
    return study


def make_pairs(folder: Path, count: int) -> list[Path]:
    """Both sets of pairs of the grammar: harmful prompts with a refusal, and with another reply."""
    paths = []
    for name, target in (("refusing", "refusal"), ("complying", "compliance")):
        settings = SetSettings(source="grammar", label="harmful", target=target, train=count)
        paths.append(folder / f"{name}.jsonl")
        write_prompts(name, settings, 0, GRAMMAR, Path("unused"), None, paths[-1])
    return paths
