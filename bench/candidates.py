"""Scores of expert directions: exact ones against a full pass for each, and the cost of the estimate."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.models import models, token_rows
from bench.timing import Line, rate, seconds
from steer.models.batching import by_length
from steer.models.interventions import Arm, Operation
from steer.models.loading import LoadedModel
from steer.models.scoring import kl_divergence, refusal_score
from steer.models.steering import steer
from steer.selection.candidates import Question
from steer.selection.experts_estimate import estimates, gradients
from steer.selection.experts_exact import Candidate, Place, exact_scores

PROMPTS, BATCH, POSITIONS = 32, 128, 5
ROUNDS = {"mid": 2, "organism": 10}
CANDIDATES = {"mid": 24, "organism": 128}
REFUSAL = (40, 41)
TARGETS = {"mid": ">= 2", "organism": ">= 5"}


def _candidates(loaded: LoadedModel, count: int) -> list[Candidate]:
    """As many candidates in every MoE layer, of other experts and coefficients."""
    drawn = torch.Generator().manual_seed(0)
    found = []
    for layer in loaded.sites.moe_layers:
        for number in range(count // len(loaded.sites.moe_layers)):
            direction = torch.randn(1, loaded.hidden_size, generator=drawn)
            place = Place(layer, number * 3 % loaded.experts, -1)
            found.append(Candidate(place, 0.5 * (number + 1), direction))
    return found


def _one_by_one(loaded: LoadedModel, questions: list[Question], candidates: list[Candidate]) -> Tensor:
    """Refusal scores and KL, the whole model for every candidate; the unsteered pass is run once."""
    names = [question.id for question in questions]
    found = torch.empty(2, len(candidates), len(questions), dtype=torch.float64)
    for rows in by_length([len(question.tokens) for question in questions], names, BATCH):
        batch = loaded.batch([questions[row].tokens for row in rows])
        before = loaded.next_token_logits(batch)
        for index, candidate in enumerate(candidates):
            with steer(loaded, [_arm(candidate)] * len(rows), batch.attention_mask):
                logits = loaded.next_token_logits(batch)
            found[0, index, rows] = refusal_score(logits, REFUSAL)
            found[1, index, rows] = kl_divergence(before, logits)
    return found


def _arm(candidate: Candidate) -> Arm:
    place, name = candidate.place, "direction"
    experts = () if place.expert is None else (place.expert,)
    operation = Operation("expert_add", name, place.layer, candidate.coefficient, experts=experts)
    return Arm("", (operation,), {name: candidate.direction})


def lines(folder: Path) -> Iterator[Line]:
    """Candidates per second, and forward passes that the estimate of all of them costs."""
    for name, loaded in models(folder).items():
        rows = token_rows(loaded, PROMPTS)
        questions = [Question(f"q{index}", "", tokens) for index, tokens in enumerate(rows)]
        candidates = _candidates(loaded, CANDIDATES[name])
        kept: dict[str, Tensor] = {}

        def full(work: Any = (loaded, questions, candidates), kept: Any = kept) -> None:
            kept["naive"] = _one_by_one(*work)

        def resumed(work: Any = (loaded, questions, candidates), kept: Any = kept) -> None:
            kept["ours"] = torch.stack(exact_scores(*work, REFUSAL, "routed", BATCH))

        taken = seconds({"naive": full, "resumed": resumed}, ROUNDS[name])
        error = float((kept["ours"] - kept["naive"]).abs().max())
        fewer = _multiplications(full) / _multiplications(resumed)
        what = f"{name}: exact scores of {len(candidates)} candidates"
        target = f"{TARGETS[name]}; {fewer:.2f}x fewer multiplications; scores differ by {error:.0e}"
        yield rate(what, "cand./s", len(candidates), taken, "resumed", target)
        yield _estimate(name, loaded, questions)


def _multiplications(work: Callable[[], None]) -> int:
    """Operations of its matrix products: where they are the cost, a speed-up is bounded by their ratio."""
    with FlopCounterMode(display=False) as counted:
        work()
    return counted.get_total_flops()


def _estimate(name: str, loaded: LoadedModel, questions: list[Question]) -> Line:
    shape = (len(loaded.sites.moe_layers), loaded.experts, POSITIONS, loaded.hidden_size)
    directions = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def forward() -> None:
        loaded.next_token_logits(loaded.batch([question.tokens for question in questions]))

    def estimate() -> None:
        estimates(gradients(loaded, questions, REFUSAL, "routed", BATCH), directions)

    taken = seconds({"naive": forward, "estimate": estimate}, ROUNDS[name])
    ratios = tuple(mine / bare for mine, bare in zip(taken["estimate"], taken["naive"], strict=True))
    count = shape[0] * shape[1] * shape[2]
    mine, bare = (f"{1e3 * min(taken[way]):.0f} ms" for way in ("estimate", "naive"))
    return Line(f"{name}: estimate of {count} candidates, in passes", mine, bare, ratios, "<= 4")
