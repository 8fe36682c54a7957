"""Rows that go along in a batch for others to take something from: twins and donors.

A twin is fed the very tokens of its row under `Arm.twin`, and lends its routing to `replay_routing`. A donor
is the prompt paired with the row's, unsteered; a `swap` without a tensor takes what is replaced from it. Both
are added behind the rows that are asked for, and dropped from the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from steer.errors import SteerError
from steer.models.interventions import Arm, Operation

BASELINE = Arm("donor")
Ids = Sequence[int]


@dataclass(frozen=True)
class Companions:
    """A batch with the rows that go along.

    Attributes:
        prompts: encoded prompts of all rows, those that were asked for first.
        arms: one for each of them.
        twins: by row, the row whose routing it replays.
        donors: by row, the row from which it takes what is swapped.
        leaders: by row that goes along, the row whose tokens it is fed.
    """

    prompts: list[Ids]
    arms: list[Arm]
    twins: dict[int, int]
    donors: dict[int, int]
    leaders: dict[int, int]


def with_companions(
    prompts: Sequence[Ids], arms: Sequence[Arm], donors: Sequence[Ids] | None = None
) -> Companions:
    """Add to a batch the rows that its arms need; a batch that needs none is given back as it is.

    Args:
        prompts: encoded prompts.
        arms: an arm for each.
        donors: an encoded paired prompt for each; those of rows that swap nothing may be empty.

    Raises:
        SteerError: an arm swaps and its row has no donor.
        ValueError: there are more or fewer donors than prompts.
    """
    if donors is not None and len(donors) != len(prompts):
        raise ValueError(f"{len(donors)} donors for {len(prompts)} prompts")
    found = Companions(list(prompts), list(arms), {}, {}, {})
    lent: dict[tuple[int, ...], int] = {}
    for row, (prompt, arm) in enumerate(zip(prompts, arms, strict=True)):
        rows = [row]
        if _any(arm.operations, "replay_routing"):
            found.twins[row] = _join(found, prompt, Arm(f"{arm.name}, twin", arm.twin, arm.tensors), row)
            rows.append(found.twins[row])
        for taker in rows:
            if any(one.operation == "swap" and not one.tensor for one in found.arms[taker].operations):
                if not donors or not donors[row]:
                    cause = "swaps with a paired prompt, and there is none"
                    raise SteerError(f"arm `{arm.name}`", cause, "give `donors`, a prompt for each row")
                key = tuple(donors[row])
                # The paired prompt of several rows, as of a sweep, is there once.
                if key not in lent:
                    lent[key] = _join(found, donors[row], BASELINE, row)
                found.donors[taker] = lent[key]
    return found


def _any(operations: Sequence[Operation], kind: str) -> bool:
    return any(one.operation == kind for one in operations)


def _join(found: Companions, prompt: Ids, arm: Arm, leader: int) -> int:
    row = len(found.prompts)
    found.prompts.append(prompt)
    found.arms.append(arm)
    found.leaders[row] = leader
    return row
