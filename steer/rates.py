"""Verdicts into rates with intervals, and into paired differences to baseline."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steer import stats
from steer.artifacts.files import Row
from steer.artifacts.provenance import digest
from steer.judges.behaviours import REFUSAL, Behaviour
from steer.judges.verdicts import UNSCORED
from steer.told import Told, amount, scored, share

BASELINE = "baseline"
PARTS = ("", "_low", "_high", "_p", "_equivalence_p")
"""What a difference of rates consists of."""


@dataclass(frozen=True)
class Method:
    """How intervals are made.

    Attributes:
        confidence: level of every interval.
        resamples: bootstrap resamples over prompts.
        seed: seed of the resampling.
        reference: judge that the others are compared with in the table of agreement.
        margin: difference of two rates below which they count as equal.
        behaviour: what the verdicts tell.
    """

    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0
    reference: str = "truth"
    margin: float = 0.05
    behaviour: Behaviour = REFUSAL

    def rng(self, *names: str) -> np.random.Generator:
        """A generator for one number of the tables, which no other row has a say in."""
        return np.random.default_rng([self.seed, int(digest(names), 16)])


def rate_columns(behaviour: Behaviour) -> tuple[str, ...]:
    """What `rates` gives: counts, then shares with their intervals."""
    shares = (f"{verdict}_{part}" for verdict in behaviour.verdicts for part in ("rate", "low", "high"))
    return "n", "unscored", *behaviour.verdicts, *shares


def difference_columns(behaviour: Behaviour) -> tuple[str, ...]:
    """What `differences` gives."""
    return tuple(f"{verdict}_difference{part}" for verdict in behaviour.compared for part in PARTS)


def adjusted_columns(behaviour: Behaviour) -> tuple[str, ...]:
    """What `adjust` adds."""
    return tuple(f"{verdict}_difference_p_holm" for verdict in behaviour.compared)


def rates(prompts: Sequence[Told], method: Method) -> Row:
    """Counts in prompts, and shares of the replies that were scored, with Wilson intervals over prompts.

    Samples of a prompt are not independent: how far prompts differ says how many replies they are worth.
    """
    row: Row = {"n": len(prompts), "unscored": amount(prompts, UNSCORED)}
    told = [one for one in prompts if scored(one)]
    replies = sum(len(one) - one.count(UNSCORED) for one in told)
    for verdict in method.behaviour.verdicts:
        row[verdict] = amount(prompts, verdict)
        given = sum(one.count(verdict) for one in told)
        shares = np.array([share(one, verdict) for one in told], dtype=np.float64)
        found = stats.clustered(given, shares, replies, method.confidence)
        row |= dict(zip((f"{verdict}_rate", f"{verdict}_low", f"{verdict}_high"), found, strict=True))
    return row


def differences(treated: Mapping[str, Told], control: Mapping[str, Told], method: Method, *names: str) -> Row:
    """Differences of the compared verdicts' rates over the prompts, by id, that were scored in both.

    Of one reply a prompt p-values are McNemar's, of several samples those of all flips of prompts' signs,
    or of flips drawn by the method's seed where they are too many (`stats.sign_flips`).

    Args:
        treated: verdicts of an arm.
        control: verdicts of the baseline on the same prompts.
        method: how intervals are made.
        names: what the row is known by; they and the verdict seed its resampling.
    """
    prompts = [prompt for prompt in sorted(control) if scored(treated[prompt], control[prompt])]
    parts = _parts(side[prompt] for side in (treated, control) for prompt in prompts)
    row: Row = {}
    for verdict in method.behaviour.compared:
        one, other = (
            np.array([share(side[prompt], verdict) for prompt in prompts], dtype=np.float64)
            for side in (treated, control)
        )
        difference = stats.paired_difference(
            one, other, method.rng(*names, verdict), method.resamples, method.confidence
        )
        name = f"{verdict}_difference"
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), difference, strict=True))
        flips = method.rng(*names, verdict, "flips")
        row[f"{name}_p"] = _p_value(one, other, parts, flips) if prompts else math.nan
        row[f"{name}_equivalence_p"] = stats.equivalence(one, other, method.margin) if prompts else math.nan
    return row


def _parts(told: Iterable[Told]) -> int:
    """What all shares are multiples of one over."""
    return math.lcm(*{len(one) - one.count(UNSCORED) for one in told})


def _p_value(
    treated: Float[np.ndarray, " prompt"],
    control: Float[np.ndarray, " prompt"],
    parts: int,
    rng: np.random.Generator,
) -> float:
    if parts == 1:
        return stats.mcnemar(treated == 1, control == 1)
    return stats.sign_flips(treated - control, parts, rng)


def adjust(rows: Sequence[Row], behaviour: Behaviour) -> None:
    """Give rows of one table the p-values that hold over all of its arms (Holm 1979)."""
    for verdict in behaviour.compared:
        name = f"{verdict}_difference_p"
        tested = [row for row in rows if not math.isnan(row.get(name, math.nan))]
        adjusted = stats.holm(np.array([row[name] for row in tested]))
        for row, value in zip(tested, adjusted, strict=True):
            row[f"{name}_holm"] = float(value)
