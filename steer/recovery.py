"""Share of a whole edit's effect that an edit of single experts recovers.

Marbut et al. (arXiv 2606.04160, later version) report 78 % on average over models: the best single expert, at
a position chosen freely, against the same direction in the residual stream.
"""

from collections.abc import Iterator, Mapping, Sequence, Set

import numpy as np

from steer import stats
from steer.artifacts.files import Row
from steer.rates import BASELINE, Method
from steer.told import Told, scored, share

SOURCE_SHARE = 0.78
"""What the source reports, on average over models."""
_PARTS = ("", "_low", "_high")
RECOVERY_COLUMNS = (
    *("arm", "whole", "polarity", "set", "judge", "verdict", "n"),
    *(f"{name}{part}" for name in ("share", "effect", "whole_effect") for part in _PARTS),
)


def recovery_rows(
    pairs: Sequence[tuple[str, str, str]],
    labels: Set[str],
    verdicts: Mapping[str, Mapping[str, Told]],
    method: Method,
    *names: str,
) -> Iterator[Row]:
    """The share of every pair on a set of prompts that its polarity is meant for.

    Effects are changes of the wanted verdict's rate against the unsteered model, over the prompts that all
    three were judged on. An interval of the share resamples prompts for both effects together; there is no
    share where the whole effect can't be told from none.

    Args:
        pairs: the arm on experts, the whole edit, and their polarity.
        labels: of the set's prompts.
        verdicts: by arm and prompt.
        method: how intervals are made.
        names: what set and judge are known by; they seed the resampling.
    """
    for arm, whole, polarity in pairs:
        if not (method.behaviour.is_for(polarity, labels) and {arm, whole} <= verdicts.keys()):
            continue
        verdict = method.behaviour.wanted(polarity)
        sides = [verdicts[name] for name in (arm, whole, BASELINE)]
        prompts = [one for one in sorted(sides[0]) if scored(*(side[one] for side in sides))]
        part, full, none = (
            np.array([share(side[one], verdict) for one in prompts], dtype=np.float64) for side in sides
        )
        rng = method.rng(*names, arm, whole, "recovery")
        ratio = stats.ratio_of_differences(part - none, full - none, rng, method.resamples, method.confidence)
        row: Row = {"arm": arm, "whole": whole, "polarity": polarity, "verdict": verdict, "n": len(prompts)}
        row |= _cells("share", ratio)
        for name, side, other in (("effect", part, arm), ("whole_effect", full, whole)):
            rng = method.rng(*names, other, verdict)
            row |= _cells(name, stats.paired_difference(side, none, rng, method.resamples, method.confidence))
        yield row


def _cells(name: str, interval: stats.Interval) -> Row:
    return {f"{name}{part}": value for part, value in zip(_PARTS, interval, strict=True)}
