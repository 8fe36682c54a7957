"""Arms that are drawn several times: one entry of the configuration becomes an arm for each seed."""

from collections.abc import Mapping
from typing import Any

from steer.config.arm_base import POOL


def expanded(arms: Mapping[str, Any]) -> dict[str, Any]:
    """The arms, with one for each of the `seeds` of those that ask for several.

    The first keeps the name and the seed; the others are called by theirs, and all are of one `pool`.

    Raises:
        ValueError: another arm has the name of one of them, or there are more seeds than can differ.
    """
    found: dict[str, Any] = {}
    for name, values in arms.items():
        members = list(_members(name, values))
        if taken := [member for member, _ in members[1:] if member in arms]:
            raise ValueError(f"`arms.{name}.seeds` makes an arm `{taken[0]}`, and there is one; rename it")
        found |= members
    return found


def _members(name: str, values: Any) -> list[tuple[str, Any]]:
    seeds = values.get("seeds") if isinstance(values, Mapping) else None
    # Anything else is checked where it is typed.
    if type(seeds) is not int or seeds < 2:
        return [(name, values)]
    if values.get("experts") == "matched" and seeds > POOL:
        cause = f"is {seeds}, and `matched` goes through the {POOL} nearest experts, then through them again"
        raise ValueError(f"`arms.{name}.seeds`: {cause}; ask for at most {POOL}")
    first = values.get("seed", 0)
    if type(first) is not int:
        return [(name, values)]
    drawn = range(first, first + seeds)
    names = [name, *(f"{name}-{seed}" for seed in drawn[1:])]
    common = {**values, "seeds": 1, "pool": name}
    return [(one, {**common, "seed": seed}) for one, seed in zip(names, drawn, strict=True)]
