"""Controls that were drawn with several seeds, scored together: over prompts, and over seeds."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from steer import stats
from steer.artifacts.files import Row
from steer.judges.behaviours import Behaviour
from steer.judges.verdicts import UNSCORED, Verdict
from steer.rates import BASELINE, Method

_PARTS = ("", "_low", "_high", "_smallest", "_largest")


def pooled_columns(behaviour: Behaviour) -> tuple[str, ...]:
    """The columns of `pooled.csv`."""
    measures = [f"{verdict}_{what}" for verdict in behaviour.compared for what in ("rate", "difference")]
    return ("arm", "set", "judge", "seeds", "n", *(f"{one}{part}" for one in measures for part in _PARTS))


def pooled_rows(
    pools: Mapping[str, Sequence[str]],
    verdicts: Mapping[str, Mapping[str, Verdict]],
    method: Method,
    *names: str,
) -> Iterator[Row]:
    """Rates of every pool that answered a set, and differences to the unsteered model.

    Of each prompt the mean over seeds counts. Intervals resample prompts (percentile bootstrap), the seeds
    being those that were drawn; beside them stand the smallest and the largest value of any seed.

    Args:
        pools: arms that differ in the seed alone, by pool.
        verdicts: by arm and prompt.
        method: how intervals are made.
        names: what set and judge are known by; they seed the resampling.
    """
    for pool, members in pools.items():
        told = [verdicts[arm] for arm in members if arm in verdicts]
        if len(told) < 2:
            continue
        sides = [*told, verdicts[BASELINE]]
        prompts = [one for one in sorted(sides[0]) if all(side[one] != UNSCORED for side in sides)]
        row: Row = {"arm": pool, "seeds": len(told), "n": len(prompts)}
        for verdict in method.behaviour.compared:
            values = np.array([[side[one] == verdict for one in prompts] for side in sides], dtype=np.float64)
            drawn, control = values[:-1], values[-1]
            for what, against in (("rate", np.zeros_like(control)), ("difference", control)):
                rng = method.rng(*names, pool, verdict, what)
                mean = stats.paired_difference(
                    drawn.mean(axis=0), against, rng, method.resamples, method.confidence
                )
                each = (drawn - against).mean(axis=1) if prompts else np.full(len(told), np.nan)
                found = (*mean, float(each.min()), float(each.max()))
                row |= {f"{verdict}_{what}{part}": one for part, one in zip(_PARTS, found, strict=True)}
        yield row
