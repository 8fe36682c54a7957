"""Stage (b) of choosing experts: exact scores, from what comes after the edit alone."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steer.models.batching import by_length
from steer.models.edits.experts import added
from steer.models.interventions import Weighting
from steer.models.loading import LoadedModel
from steer.models.resuming import Recorded, record, resume
from steer.models.scoring import Distributions, refusal_score
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
    its own with them, and tokens before the first edited one run once a prompt; rows of a pass hold
    different candidates. Where nothing is edited, as an expert is never chosen, nothing runs.
    """
    scores = torch.empty(len(candidates), len(questions), dtype=torch.float64)
    divergences = torch.zeros_like(scores)
    layers = sorted({candidate.place.layer for candidate in candidates})
    lengths = [len(question.tokens) for question in questions]
    for rows in by_length(lengths, [question.id for question in questions], batch_size):
        batch = loaded.batch([questions[row].tokens for row in rows])
        unsteered = record(loaded, batch, layers, weighting)
        before = Distributions.of(unsteered.logits)
        scores[:, rows] = refusal_score(unsteered.logits, refusal_token_ids).cpu()
        for layer, here in _groups(candidates):
            recorded = unsteered.layers[layer]
            for jobs in _parts(loaded, recorded, layer, here, batch_size):
                leaving = jobs.edited(recorded)
                logits = resume(loaded, unsteered, jobs.rows, layer, leaving)
                odds, kl = before.compare(jobs.rows, logits, refusal_token_ids)
                where = (jobs.candidates.cpu(), torch.tensor(rows)[jobs.rows.cpu()])
                scores[where], divergences[where] = odds.cpu(), kl.cpu()
    return scores, divergences


@dataclass(frozen=True)
class _Jobs:
    """Rows that run together: a candidate each, and the first column that any of them edits.

    Attributes:
        candidates: index of each job's candidate.
        rows: row of the unsteered pass.
        start: the column.
        experts: those that are edited.
        vectors: coefficient × direction of each.
    """

    candidates: Int[Tensor, " jobs"]
    rows: Int[Tensor, " jobs"]
    start: int
    experts: Int[Tensor, "jobs experts_edited"]
    vectors: Float[Tensor, "jobs experts_edited d"]

    def edited(self, recorded: Recorded) -> Float[Tensor, "jobs tokens d"]:
        """What leaves the layer from the first edited column on."""
        leaving, weights = (part[self.rows, self.start :] for part in (recorded.leaving, recorded.weights))
        return added(leaving.float(), weights, self.experts, self.vectors).to(leaving.dtype)


Group = list[tuple[int, Candidate]]


def _groups(candidates: Sequence[Candidate]) -> list[tuple[int, Group]]:
    """Candidates, with their indices, of one layer and of one number of experts."""
    found: dict[tuple[int, int], Group] = defaultdict(list)
    for index, one in enumerate(candidates):
        found[one.place.layer, len(one.direction)].append((index, one))
    return [(layer, group) for (layer, _), group in sorted(found.items(), key=lambda item: item[0])]


def _parts(
    loaded: LoadedModel, recorded: Recorded, layer: int, group: Group, batch_size: int
) -> Iterator[_Jobs]:
    """The jobs of a group, such as edit equally many tokens together; without those that edit none."""
    like = recorded.weights
    every = range(like.shape[-1])
    named = [every if one.place.expert is None else [one.place.expert] for _, one in group]
    experts = torch.tensor([[*experts] for experts in named], device=like.device)
    vectors = torch.stack([one.coefficient * one.direction for _, one in group]).to(like)
    indices = torch.tensor([index for index, _ in group], device=like.device)
    # Above the last layer no token sees another, and only the last one is read.
    unread = like.shape[1] - 1 if layer == loaded.layers - 1 else 0
    starts = _starts(like[:, unread:], experts) + unread
    flat = starts.flatten()
    order = flat.argsort(stable=True)
    order = order[flat[order] < like.shape[1]]
    for part in order.split(batch_size) if len(order) else ():
        which, rows = part // starts.shape[1], part % starts.shape[1]
        # What indexes parts of other layers lies on the CPU: layers may be spread over devices.
        numbers = (indices[which].cpu(), rows.cpu(), int(flat[part].min()))
        yield _Jobs(*numbers, experts[which], vectors[which])


def _starts(
    weights: Float[Tensor, "batch tokens experts"], experts: Int[Tensor, "group edited"]
) -> Int[Tensor, "group batch"]:
    """The first token that each candidate edits in every row; how many there are where it edits none."""
    chosen = weights != 0
    touched = torch.stack([chosen[..., named].any(dim=-1) for named in experts])
    return torch.where(touched.any(dim=-1), touched.int().argmax(dim=-1), weights.shape[1])
