"""The order and grouping of arms: the same in every figure, the strengthening polarity first."""

from collections.abc import Iterable, Mapping
from typing import Any

from steer.controls import is_control

BASELINE = "unsteered"
GROUPS = {"induce": "refusal strengthened", "suppress": "refusal weakened"}


def group_of(arm: Mapping[str, Any]) -> str:
    """What an arm is for, in the words of the figures."""
    return BASELINE if arm["operation"] == "none" else GROUPS[arm["polarity"]]


def is_aside(arm: Mapping[str, Any]) -> bool:
    """Whether an arm is there to be compared with another one, or is a part of it."""
    return is_control(arm) or "of" in arm


def ordered(arms: Mapping[str, Mapping[str, Any]], present: Iterable[str]) -> list[str]:
    """Names of the arms that are `present`: unsteered, strengthening, weakening; controls last in each."""
    groups = [BASELINE, *GROUPS.values()]
    names = [name for name in arms if name in set(present)]

    def rank(name: str) -> tuple[int, bool, int]:
        arm = arms[name]
        return groups.index(group_of(arm)), is_aside(arm), names.index(name)

    return sorted(names, key=rank)
