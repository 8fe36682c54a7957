"""What may be said of an arm: whether it does more than its controls do.

Routing alone names experts that matter and others that don't: both are called for harmful prompts. An arm
on experts is `specific` only if it does what it is for, on prompts of the label it is for, by more than every
one of its controls: an intersection-union test (Berger 1982); more controls never make a claim easier.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from steer import stats
from steer.artifacts.files import Row
from steer.artifacts.prompts import Prompt
from steer.controls import Compared
from steer.judges.verdicts import Verdict
from steer.rates import Method
from steer.told import Told, scored, share

SPECIFIC = "specific"
SHARED = "not told apart from controls"
NO_EFFECT = "no effect"
UNCONTROLLED = "no control"

_DIFFERENCE = tuple(f"control_difference{part}" for part in ("", "_low", "_high"))
CLAIM_COLUMNS = ("claim", "control", *_DIFFERENCE)


def possible(wanted: Verdict, prompts: Iterable[Prompt]) -> bool:
    """Whether a verdict can be given to any prompt: one about an answer needs a known answer of its kind."""
    if wanted not in ("from_document", "from_memory"):
        return True
    known = [prompt.answers for prompt in prompts if prompt.answers]
    return any(one.document if wanted == "from_document" else one.memory for one in known)


def claim(
    arm: Compared,
    name: str,
    effect_low: float,
    verdicts: Mapping[str, Mapping[str, Told]],
    method: Method,
    *names: str,
) -> Row:
    """The claim's columns for one arm on one set of the label that it is for.

    Args:
        arm: what it is compared with.
        name: the arm's name.
        effect_low: lower end of the interval of its gain over the unsteered model, in the verdict it is for.
        verdicts: verdicts of all arms on the set's prompts, by arm and prompt.
        method: how intervals are made.
        names: what the set and the judge are known by; they seed the resampling.

    Returns:
        `claim`; and of the control that it exceeds least, the name and by how much, with the paired
        bootstrap interval.
    """
    wanted = method.behaviour.wanted(arm.polarity)
    margins = {
        control: _gain(verdicts[name], verdicts[control], wanted, method, *names, name, control)
        for control in arm.controls
        if control in verdicts
    }
    row: Row = {}
    if margins:
        closest = min(margins, key=lambda one: (not math.isnan(margins[one].low), margins[one].low, one))
        row = {"control": closest} | dict(zip(_DIFFERENCE, margins[closest], strict=True))
    return {"claim": _claim(effect_low, [margin.low for margin in margins.values()])} | row


def _claim(effect_low: float, margins_low: list[float]) -> str:
    if not effect_low > 0:
        return NO_EFFECT
    if not margins_low:
        return UNCONTROLLED
    # A control that nothing could be scored of (NaN) allows no claim.
    return SPECIFIC if all(low > 0 for low in margins_low) else SHARED


def _gain(
    treated: Mapping[str, Told],
    control: Mapping[str, Told],
    wanted: Verdict,
    method: Method,
    *names: str,
) -> stats.Interval:
    prompts = [prompt for prompt in sorted(treated) if scored(treated[prompt], control[prompt])]
    one, other = (
        np.array([share(verdicts[prompt], wanted) for prompt in prompts], dtype=np.float64)
        for verdicts in (treated, control)
    )
    return stats.paired_difference(
        one, other, method.rng(*names, "claim"), method.resamples, method.confidence
    )
