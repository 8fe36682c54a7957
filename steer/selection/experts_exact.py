"""Stage (b) of choosing experts: exact scores, from layers above the edit alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steer.models.batching import by_length
from steer.models.interventions import Weighting
from steer.models.loading import Batch, LoadedModel
from steer.models.resuming import Recorded, record, resume
from steer.models.scoring import kl_divergence, refusal_score
from steer.selection.candidates import Question


@dataclass(frozen=True)
class Place:
    """Where an expert direction acts and was estimated.

    Attributes:
        layer: decoder layer.
        expert: the expert; None for all of the layer together.
        position: prompt position, from the end, that the direction was estimated at.
    """

    layer: int
    expert: int | None
    position: int


@dataclass(frozen=True)
class Candidate:
    """A place with a coefficient, sign included, and its direction, one row for each edited expert."""

    place: Place
    coefficient: float
    direction: Float[Tensor, "experts_edited d"]


Scores = tuple[Float[Tensor, "candidates prompts"], Float[Tensor, "candidates prompts"]]


def exact_scores(
    loaded: LoadedModel,
    questions: Sequence[Question],
    candidates: Sequence[Candidate],
    refusal_token_ids: tuple[int, ...],
    weighting: Weighting,
    batch_size: int,
) -> Scores:
    """Refusal score, and KL from the unsteered model in nats, of every candidate on every prompt.

    Equal to a full pass under `expert_add` or `experts_add` for each candidate. Layers below the edit,
    its own with them, run once a prompt; rows of a pass hold different candidates.
    """
    scores = torch.empty(len(candidates), len(questions), dtype=torch.float64)
    divergences = torch.empty_like(scores)
    layers = sorted({candidate.place.layer for candidate in candidates})
    lengths = [len(question.tokens) for question in questions]
    for rows in by_length(lengths, [question.id for question in questions], batch_size):
        batch = loaded.batch([questions[row].tokens for row in rows])
        recorded, before = record(loaded, batch, layers, weighting)
        for layer in layers:
            here = [index for index, one in enumerate(candidates) if one.place.layer == layer]
            jobs = [(index, row) for index in here for row in range(len(rows))]
            for start in range(0, len(jobs), batch_size):
                part = jobs[start : start + batch_size]
                edited, at = _edited(recorded[layer], candidates, part)
                logits = resume(loaded, _rows(batch, at), layer, edited)
                where = ([index for index, _ in part], [rows[row] for _, row in part])
                scores[where] = refusal_score(logits, refusal_token_ids).cpu()
                divergences[where] = kl_divergence(before[at], logits).cpu()
    return scores, divergences


def _edited(
    recorded: Recorded, candidates: Sequence[Candidate], jobs: Sequence[tuple[int, int]]
) -> tuple[Float[Tensor, "jobs tokens d"], list[int]]:
    """What leaves the layer under each job's candidate, and the row of the batch that each job is about."""
    parts = [_gain(recorded, candidates[index], rows) for index, rows in _runs(jobs)]
    at = [row for _, row in jobs]
    gain = torch.cat(parts)
    return (recorded.leaving[at].float() + gain).to(recorded.leaving.dtype), at


def _runs(jobs: Sequence[tuple[int, int]]) -> Iterator[tuple[int, list[int]]]:
    """The rows of each candidate, in order."""
    rows: dict[int, list[int]] = {}
    for index, row in jobs:
        rows.setdefault(index, []).append(row)
    yield from rows.items()


def _gain(recorded: Recorded, candidate: Candidate, rows: Sequence[int]) -> Float[Tensor, "rows tokens d"]:
    """c·Σ_e w_e·v_e over the experts that the candidate edits."""
    weights = recorded.weights[list(rows)]
    if candidate.place.expert is not None:
        weights = weights[..., candidate.place.expert, None]
    return candidate.coefficient * (weights @ candidate.direction.to(weights))


def _rows(batch: Batch, rows: Sequence[int]) -> Batch:
    chosen = list(rows)
    return Batch(batch.input_ids[chosen], batch.attention_mask[chosen], batch.position_ids[chosen])
