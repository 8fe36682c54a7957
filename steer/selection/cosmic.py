"""Choice of layer and position after COSMIC (arXiv 2506.00085): by activations, not by output tokens."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from steer.artifacts.files import Row
from steer.artifacts.provenance import provenance
from steer.config import CosmicSettings, ModelSettings
from steer.models.batching import by_length
from steer.models.capture import capture
from steer.models.interventions import Arm
from steer.models.loading import LoadedModel
from steer.models.steering import steer
from steer.models.study import open_study
from steer.selection.candidates import (
    Directions,
    Question,
    ablation,
    addition,
    digests,
    read_directions,
    val_prompts,
)
from steer.selection.ranking import publish, rank, within

Means = Float[Tensor, "layers positions_d"]


def select(
    facts_path: Path,
    directions_path: Path,
    harmful_path: Path,
    harmless_path: Path,
    out: Path,
    model: ModelSettings,
    settings: CosmicSettings,
    positions: int,
) -> None:
    """Score every candidate on `val` and write `<out>.csv` and `<out>.json`.

    The score is cos(ablated harmful, harmless) + cos(steered harmless, harmful), each between mean
    activations over the last positions, averaged over the layers where the two classes are least
    similar. The largest wins, last layers pruned.

    Raises:
        SteerError: every candidate is filtered out, or an input can't be used.
    """
    loaded, facts = open_study(facts_path, model)
    directions = read_directions(directions_path, facts, positions)
    scorer = _Scorer(
        loaded,
        val_prompts(loaded, harmful_path),
        val_prompts(loaded, harmless_path),
        positions,
        model.batch_size,
    )
    chosen_layers = scorer.least_similar(max(1, math.ceil(settings.layers * facts.layers)))
    rows = [
        _row(scorer, directions, place, chosen_layers, settings.prune_layers)
        for place in directions.candidates()
    ]
    kept = rank(rows, "score", largest=True)
    inputs = digests(facts, directions=directions_path, harmful=harmful_path, harmless=harmless_path)
    why = f"largest cosine score over layers {', '.join(map(str, chosen_layers))}"
    origin = provenance("steer.selection.cosmic", settings.model_dump(mode="json"), inputs)
    publish(out, rows, kept, why, ["none has a direction in an unpruned layer"], origin)


def _cosines(a: Means, b: Means) -> Float[Tensor, " layers"]:
    return torch.nn.functional.cosine_similarity(a, b, dim=-1)


class _Scorer:
    """Mean activations of the two classes, as they are and under a candidate."""

    def __init__(
        self,
        loaded: LoadedModel,
        harmful: Sequence[Question],
        harmless: Sequence[Question],
        positions: int,
        batch_size: int,
    ) -> None:
        self._loaded, self._positions, self._batch_size = loaded, positions, batch_size
        self._questions = {"harmful": harmful, "harmless": harmless}
        self._plain = {label: self._means(label, Arm("baseline")) for label in self._questions}

    @torch.inference_mode()
    def _means(self, label: str, arm: Arm) -> Means:
        """What enters layers 1 to L, edits included, averaged over prompts, positions side by side."""
        questions = self._questions[label]
        total = torch.zeros(
            self._loaded.layers, self._positions * self._loaded.hidden_size, dtype=torch.float64
        )
        lengths = [len(question.tokens) for question in questions]
        for indices in by_length(lengths, [question.id for question in questions], self._batch_size):
            batch = self._loaded.batch([questions[index].tokens for index in indices])
            # The recorder's hooks come second, so that they see what the edits leave behind.
            with (
                steer(self._loaded, [arm] * len(indices), batch.attention_mask),
                capture(self._loaded, self._positions) as recorder,
            ):
                self._loaded.next_token_logits(batch)
                total += recorder.take().residual[:, 1:].double().flatten(2).sum(dim=0)
        return total / len(questions)

    def least_similar(self, count: int) -> list[int]:
        """The layers whose mean activations of the two classes are least alike."""
        similarity = _cosines(self._plain["harmful"], self._plain["harmless"])
        return sorted(torch.argsort(similarity, stable=True)[:count].tolist())

    def score(self, directions: Directions, place: tuple[int, int], layers: list[int]) -> tuple[float, float]:
        """(compliance, refusal) similarity of a candidate."""
        ablated = self._means("harmful", ablation(directions, *place))
        steered = self._means("harmless", addition(directions, *place))
        comply = _cosines(ablated, self._plain["harmless"])[layers].mean()
        refuse = _cosines(steered, self._plain["harmful"])[layers].mean()
        return float(comply), float(refuse)


def _row(
    scorer: _Scorer, directions: Directions, place: tuple[int, int], layers: list[int], prune_layers: float
) -> Row:
    zero = directions.is_zero(*place)
    comply, refuse = (None, None) if zero else scorer.score(directions, place, layers)
    kept = "kept" if within(place[0], len(directions.direction) - 1, prune_layers) else "pruned layer"
    return {
        "layer": place[0],
        "position": place[1],
        "score": None if comply is None or refuse is None else comply + refuse,
        "comply_similarity": comply,
        "refuse_similarity": refuse,
        "direction_norm": float(directions.at(*place).double().norm()),
        "status": "zero direction" if zero else kept,
        "rank": None,
    }
