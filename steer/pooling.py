"""Arms that were drawn several times, scored together: controls with several seeds, and sampled replies."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steer import stats
from steer.artifacts.files import Row
from steer.judges.behaviours import Behaviour
from steer.judges.verdicts import Verdict
from steer.rates import BASELINE, Method
from steer.told import Told, scored, share

_PARTS = ("", "_low", "_high", "_smallest", "_largest", "_sd", "_each")
OVER = ("seeds", "samples")
"""What a row is over: seeds of a control, or sampling seeds of an arm."""

Side = Mapping[str, Told]


@dataclass(frozen=True)
class Pool:
    """An arm that was drawn several times.

    Attributes:
        arm: its name.
        over: what differs from draw to draw, of `OVER`.
        draws: what was said of each draw, by prompt, and of the unsteered model's replies beside it.
    """

    arm: str
    over: str
    draws: Sequence[tuple[Side, Side]]


def pooled_columns(behaviour: Behaviour) -> tuple[str, ...]:
    """The columns of `pooled.csv`."""
    measures = [f"{verdict}_{what}" for verdict in behaviour.compared for what in ("rate", "difference")]
    return (
        *("arm", "over", "set", "judge", "seeds", "n"),
        *(f"{one}{part}" for one in measures for part in _PARTS),
    )


def pooled_rows(
    pools: Mapping[str, Sequence[str]], told: Mapping[str, Side], method: Method, *names: str
) -> Iterator[Row]:
    """Rates of all that was drawn several times on a set, and differences to the unsteered model.

    Of each prompt the mean over draws counts. Intervals resample prompts, with all their draws (percentile
    bootstrap); beside them stand each draw's value, the smallest and the largest of them, and their standard
    deviation. Seeds of a control are those that were drawn; sampled replies are drawn anew for each prompt,
    so that an interval over prompts holds what sampling adds, and a draw is held against the unsteered
    model's replies of the same sampling seed.

    Args:
        pools: arms that differ in the seed alone, by pool.
        told: verdicts by arm and prompt, those of a prompt by their sampling seed.
        method: how intervals are made.
        names: what set and judge are known by; they seed the resampling.
    """
    for pool in [*_of_seeds(pools, told), *_of_samples(told)]:
        prompts = [
            one
            for one in sorted(told[BASELINE])
            if all(scored(*(side[one] for side in both)) for both in pool.draws)
        ]
        row: Row = {"arm": pool.arm, "over": pool.over, "seeds": len(pool.draws), "n": len(prompts)}
        for verdict in method.behaviour.compared:
            row |= _measured(pool, prompts, verdict, method, *names)
        yield row


def _of_seeds(pools: Mapping[str, Sequence[str]], told: Mapping[str, Side]) -> Iterator[Pool]:
    for pool, members in pools.items():
        draws = [(told[arm], told[BASELINE]) for arm in members if arm in told]
        if len(draws) > 1:
            yield Pool(pool, "seeds", draws)


def _of_samples(told: Mapping[str, Side]) -> Iterator[Pool]:
    samples = max((len(one) for one in told[BASELINE].values()), default=0)
    for arm in told if samples > 1 else ():
        draws = [tuple(_draw(told[name], at) for name in (arm, BASELINE)) for at in range(samples)]
        yield Pool(arm, "samples", draws)  # type: ignore[arg-type]


def _draw(side: Side, at: int) -> Side:
    return {prompt: one[at : at + 1] for prompt, one in side.items()}


def _measured(pool: Pool, prompts: Sequence[str], verdict: Verdict, method: Method, *names: str) -> Row:
    drawn, control = (
        np.array(
            [[share(draw[side][one], verdict) for one in prompts] for draw in pool.draws], dtype=np.float64
        )
        for side in (0, 1)
    )
    row: Row = {}
    for what, against in (("rate", np.zeros_like(control)), ("difference", control)):
        if what == "difference" and pool.arm == BASELINE:
            continue
        more = drawn - against
        # The name of a pool of seeds alone, as ever.
        known = pool.arm if pool.over == "seeds" else f"{pool.arm}, {pool.over}"
        rng = method.rng(*names, known, verdict, what)
        mean = stats.paired_difference(
            drawn.mean(axis=0), against.mean(axis=0), rng, method.resamples, method.confidence
        )
        each = more.mean(axis=1) if prompts else np.full(len(more), np.nan)
        spread = (float(each.min()), float(each.max()), float(each.std(ddof=1)))
        found = (*mean, *spread, " ".join(f"{one:.6g}" for one in each.tolist() if prompts))
        row |= {f"{verdict}_{what}{part}": one for part, one in zip(_PARTS, found, strict=True)}
    return row
