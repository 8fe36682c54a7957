"""Verdicts into rates with intervals, and into paired differences to baseline."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steer import stats
from steer.artifacts.files import Row
from steer.artifacts.provenance import digest
from steer.judges.behaviours import REFUSAL, Behaviour
from steer.judges.verdicts import UNSCORED, Verdict

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


def rates(verdicts: Sequence[Verdict], method: Method) -> Row:
    """Counts, and shares of the replies that were scored, with Wilson intervals."""
    unscored = verdicts.count(UNSCORED)
    scored = len(verdicts) - unscored
    row: Row = {"n": len(verdicts), "unscored": unscored}
    for verdict in method.behaviour.verdicts:
        row[verdict] = verdicts.count(verdict)
        share = stats.wilson(row[verdict], scored, method.confidence)
        row |= dict(zip((f"{verdict}_rate", f"{verdict}_low", f"{verdict}_high"), share, strict=True))
    return row


def differences(
    treated: Mapping[str, Verdict], control: Mapping[str, Verdict], method: Method, *names: str
) -> Row:
    """Differences of the compared verdicts' rates over the prompts, by id, that were scored in both.

    Args:
        treated: verdicts of an arm.
        control: verdicts of the baseline on the same prompts.
        method: how intervals are made.
        names: what the row is known by; they and the verdict seed its resampling.
    """
    prompts = [prompt for prompt in sorted(control) if UNSCORED not in (treated[prompt], control[prompt])]
    row: Row = {}
    for verdict in method.behaviour.compared:
        one = np.array([treated[prompt] == verdict for prompt in prompts], dtype=np.bool_)
        other = np.array([control[prompt] == verdict for prompt in prompts], dtype=np.bool_)
        difference = stats.paired_difference(
            one.astype(np.float64),
            other.astype(np.float64),
            method.rng(*names, verdict),
            method.resamples,
            method.confidence,
        )
        name = f"{verdict}_difference"
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), difference, strict=True))
        row[f"{name}_p"] = stats.mcnemar(one, other) if prompts else math.nan
        row[f"{name}_equivalence_p"] = stats.equivalence(one, other, method.margin) if prompts else math.nan
    return row


def adjust(rows: Sequence[Row], behaviour: Behaviour) -> None:
    """Give rows of one table the p-values that hold over all of its arms (Holm 1979)."""
    for verdict in behaviour.compared:
        name = f"{verdict}_difference_p"
        tested = [row for row in rows if not math.isnan(row.get(name, math.nan))]
        adjusted = stats.holm(np.array([row[name] for row in tested]))
        for row, value in zip(tested, adjusted, strict=True):
            row[f"{name}_holm"] = float(value)
