"""Detectors that mask one expert at a time, many experts in one batch: exact where gradients estimate."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from steer.detection.rows import Rows, Told
from steer.models.gates import target_log_probability
from steer.models.interventions import Arm, Operation
from steer.models.loading import LoadedModel
from steer.models.mixed import Job, job_values
from steer.models.scoring import refusal_score


def masks(loaded: LoadedModel, places: Sequence[tuple[int, int]]) -> list[Arm]:
    """An arm for each (place among MoE layers, expert), under which the router can't choose that expert."""
    return [
        Arm(
            f"mask {place} {expert}",
            (Operation("mask_experts", layer=loaded.sites.moe_layers[place], experts=(expert,)),),
        )
        for place, expert in places
    ]


def prompt_effects(
    loaded: LoadedModel,
    arms: Sequence[Arm],
    harmful: Rows,
    refusing: tuple[int, ...],
    batch_size: int,
) -> Float[Tensor, "arms prompts"]:
    """Refusal score of every harmful prompt without an arm, minus with it."""
    jobs = [Job(arm, row, f"{n:09d}") for arm in (Arm("baseline"), *arms) for n, row in enumerate(harmful)]
    scores = job_values(loaded, jobs, batch_size, lambda logits, _: refusal_score(logits[:, -1], refusing))
    table = scores.view(len(arms) + 1, len(harmful))
    return table[:1] - table[1:]


def reply_effects(
    loaded: LoadedModel,
    arms: Sequence[Arm],
    refusing: Sequence[Told],
    complying: Sequence[Told],
    batch_size: int,
) -> Float[Tensor, "arms pairs"]:
    """Log-probability a token of the refusing minus the complying reply, without an arm minus with it."""
    sides = []
    for side in (refusing, complying):
        jobs = [(arm, n, told) for arm in (Arm("baseline"), *arms) for n, told in enumerate(side)]
        keep = max(told.target for told in side) + 1

        def value(
            logits: Float[Tensor, "b k v"], indices: Sequence[int], jobs: list[tuple[Arm, int, Told]] = jobs
        ) -> Float[Tensor, " b"]:
            return target_log_probability(logits, [jobs[index][2].reply for index in indices])

        rows = [Job(arm, told.tokens, f"{n:09d}") for arm, n, told in jobs]
        sides.append(job_values(loaded, rows, batch_size, value, keep).view(len(arms) + 1, len(side)))
    table = sides[0] - sides[1]
    return table[:1] - table[1:]
