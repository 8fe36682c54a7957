"""What the selection methods choose among: a direction at every layer and position."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from steer.artifacts.answers import Answers
from steer.artifacts.facts import ModelFacts
from steer.artifacts.prompts import read_prompts
from steer.artifacts.provenance import file_digest
from steer.artifacts.tensors import read_tensors
from steer.errors import SteerError
from steer.models.batching import by_length
from steer.models.interventions import Arm, Operation, Scope, unit
from steer.models.loading import LoadedModel
from steer.models.scoring import refusal_score
from steer.models.steering import steer


@dataclass(frozen=True)
class Directions:
    """The refusal direction entering every layer, at the last P prompt tokens (contract, section 3)."""

    direction: Float[Tensor, "layers_1 positions d"]
    harmless_mean: Float[Tensor, "layers_1 positions d"]

    @property
    def positions(self) -> range:
        """Positions from the end, −P … −1."""
        return range(-self.direction.shape[1], 0)

    def at(self, layer: int, position: int) -> Float[Tensor, " d"]:
        """The direction r entering a layer at a position.

        Raises:
            SteerError: none was estimated there.
        """
        layers = len(self.direction) - 1
        if layer not in range(layers) or position not in self.positions:
            raise SteerError(
                f"layer {layer}, position {position}",
                f"no direction was estimated there, only in layers 0 to {layers - 1} at positions"
                f" {self.positions[0]} to -1",
                "mend `layer` and `position` of the arm",
            )
        return self.direction[layer, position]

    def candidates(self) -> list[tuple[int, int]]:
        """Every (layer, position) whose input could be edited."""
        return [(layer, position) for layer in range(len(self.direction) - 1) for position in self.positions]

    def is_zero(self, layer: int, position: int) -> bool:
        """Whether both classes are alike there, as the embeddings of the template's tokens are."""
        return not bool((self.at(layer, position) != 0).any())


def digests(facts: ModelFacts, **inputs: Path) -> dict[str, str]:
    """What a choice was made from: digests of the model and of each input file."""
    return {"model": facts.digest, **{name: file_digest(path) for name, path in inputs.items()}}


def read_directions(path: Path, facts: ModelFacts, positions: int) -> Directions:
    """Read `directions/refusal.safetensors` of a model.

    Raises:
        SteerError: the file is missing, of another model, or of other shapes.
    """
    shape = (facts.layers + 1, positions, facts.hidden_size)
    names = ("residual.direction", "residual.harmless_mean")
    file = read_tensors(path, model=facts.digest, shapes=dict.fromkeys(names, shape))
    return Directions(file.tensors[names[0]], file.tensors[names[1]])


def ablation(directions: Directions, layer: int, position: int) -> Arm:
    """The arm that removes one direction from every write to the residual stream."""
    basis = unit(directions.at(layer, position))[None]
    return Arm(f"ablate {layer} {position}", (Operation("ablate", "basis"),), {"basis": basis})


def addition(
    directions: Directions, layer: int, position: int, coefficient: float = 1.0, scope: Scope = "all"
) -> Arm:
    """The arm that adds a multiple of one direction to the input of its layer."""
    operation = Operation("add", "direction", layer, coefficient, scope)
    return Arm(f"add {layer} {position}", (operation,), {"direction": directions.at(layer, position)})


@dataclass(frozen=True)
class Question:
    """A prompt to choose by."""

    id: str
    text: str
    tokens: list[int]
    answers: Answers | None = None


def val_prompts(loaded: LoadedModel, path: Path, limit: int | None = None) -> list[Question]:
    """The `val` prompts of a set, encoded; the first `limit` by id.

    Raises:
        SteerError: the set has none.
    """
    rows = sorted((row for row in read_prompts(path) if row.split == "val"), key=lambda row: row.id)
    if not rows:
        raise SteerError(str(path), "has no `val` prompts, so nothing can be chosen", "set `val` of this set")
    return [
        Question(row.id, row.text, loaded.encode(row.text, row.before), row.answers) for row in rows[:limit]
    ]


Values = Float[Tensor, " batch"]
Job = tuple[Arm, Question]


def next_token_values(
    loaded: LoadedModel,
    jobs: Sequence[Job],
    batch_size: int,
    value: Callable[[Float[Tensor, "batch vocabulary"], Sequence[int]], Values],
) -> Float[Tensor, " jobs"]:
    """A number from the first reply token's logits of every job, arms mixed within a batch.

    Args:
        loaded: the model.
        jobs: an arm and a prompt each.
        batch_size: rows per forward pass.
        value: maps logits and the indices of their jobs to a number each.
    """
    found = torch.empty(len(jobs), dtype=torch.float64)
    names = [f"{question.id} {index:09d}" for index, (_, question) in enumerate(jobs)]
    for indices in by_length([len(question.tokens) for _, question in jobs], names, batch_size):
        batch = loaded.batch([jobs[index][1].tokens for index in indices])
        with steer(loaded, [jobs[index][0] for index in indices], batch.attention_mask):
            logits = loaded.next_token_logits(batch)
        found[indices] = value(logits, indices).double().cpu()
    return found


def next_token_scores(
    loaded: LoadedModel, questions: Sequence[Question], refusal_token_ids: tuple[int, ...], batch_size: int
) -> Float[Tensor, " questions"]:
    """Refusal score of the unsteered model on every prompt."""
    jobs = [(Arm("baseline"), question) for question in questions]
    return next_token_values(
        loaded, jobs, batch_size, lambda logits, _: refusal_score(logits, refusal_token_ids)
    )
