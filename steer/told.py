"""What was said of a prompt: the verdicts on all replies of one arm to it, several where they were sampled.

Samples of a prompt are not independent of each other: each counts as its share, and prompts are resampled.
"""

from collections.abc import Iterable, Mapping

from steer.artifacts.replies import JudgedReply, Key
from steer.judges.verdicts import UNSCORED, Verdict

Told = tuple[Verdict, ...]
"""By sampling seed; of one reply, a verdict alone."""


def share(told: Told, verdict: Verdict) -> float:
    """Share of the scored replies that the verdict was given to; 0 or 1 of one reply."""
    return told.count(verdict) / (len(told) - told.count(UNSCORED))


def scored(*sides: Told) -> bool:
    """Whether a reply of every side was scored."""
    return all(told.count(UNSCORED) < len(told) for told in sides)


def amount(told: Iterable[Told], verdict: Verdict) -> float | int:
    """How many prompts' worth of replies the verdict was given to: a whole number where that is one."""
    sides = list(told)
    count, samples = sum(one.count(verdict) for one in sides), len(sides[0]) if sides else 1
    return count / samples if count % samples else count // samples


def by_arm(found: Mapping[Key, JudgedReply]) -> dict[str, dict[str, Told]]:
    """Verdicts by arm and prompt, those of a prompt by their sampling seed."""
    arms: dict[str, dict[str, Told]] = {}
    for key in sorted(found, key=lambda one: one.sample):
        prompts = arms.setdefault(key.arm, {})
        prompts[key.prompt_id] = (*prompts.get(key.prompt_id, ()), found[key].verdict)
    return arms
