"""Scores of arms on tasks: intervals, paired differences to the baseline, and tests of both kinds."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from steer import stats
from steer.artifacts.files import Row
from steer.artifacts.provenance import digest
from steer.errors import SteerError
from steer.rates import BASELINE, Method

COLUMNS = (
    *("arm", "task", "subtask", "filter", "metric", "n", "value", "stderr", "low", "high"),
    *("difference", "difference_low", "difference_high", "p", "p_holm", "equivalence_p", "margin"),
    *("questions",),
)
WHOLE = ""
"""Stands for all subtasks of a task together."""

Measure = tuple[str, str, str, str]
Scores = dict[str, float]


def table(runs: Sequence[Row], method: Method) -> list[Row]:
    """A row per arm, task, subtask, filter and metric; those of a task with subtasks are pooled as well.

    Args:
        runs: `arm`, `task` and the `rows` of its questions.
        method: how intervals are made.

    Raises:
        SteerError: two arms were asked different questions.
    """
    asked = _asked(runs)
    found: dict[Measure, dict[str, Scores]] = {}
    for run in runs:
        for measure, name, value in _values(run):
            found.setdefault(measure, {}).setdefault(run["arm"], {})[name] = value
    rows: list[Row] = []
    for measure, arms in found.items():
        same = [_row(measure, arm, scores, arms.get(BASELINE), method) for arm, scores in arms.items()]
        _adjust(same)
        names = next(iter(arms.values()))
        data = digest(sorted(asked[measure[0], name] for name in names))
        rows += [{**row, "questions": data} for row in same]
    order = list(dict.fromkeys(run["arm"] for run in runs))
    return sorted(rows, key=lambda row: order.index(row["arm"]))


def _asked(runs: Sequence[Row]) -> dict[tuple[str, str], str]:
    """What was asked, by task and question: the same of every arm."""
    found: dict[tuple[str, str], str] = {}
    for run in runs:
        for row in run["rows"]:
            key = run["task"], f"{row['subtask']} {row['question']}"
            if found.setdefault(key, row["asked"]) != row["asked"]:
                cause = f"arm `{run['arm']}` was asked another question {row['question']} than others"
                advice = "remove `.capability.journal.jsonl` beside the table, and run again"
                raise SteerError(f"task `{run['task']}`", cause, advice)
    return found


def _values(run: Row) -> Iterator[tuple[Measure, str, float]]:
    several = len({row["subtask"] for row in run["rows"]}) > 1
    for row in run["rows"]:
        name = f"{row['subtask']} {row['question']}"
        for metric, value in row["values"].items():
            for part in (WHOLE, row["subtask"]) if several else (WHOLE,):
                yield (run["task"], part, row["filter"], metric), name, value


def _row(
    measure: Measure, arm: str, scores: Scores, baseline: Mapping[str, float] | None, method: Method
) -> Row:
    values = np.array(list(scores.values()))
    row: Row = {"arm": arm, **dict(zip(("task", "subtask", "filter", "metric"), measure, strict=True))}
    binary = bool(np.isin(values, (0, 1)).all())
    if binary:
        share = stats.wilson(int(values.sum()), len(values), method.confidence)
    else:
        rng = method.rng(*measure, arm)
        zero = np.zeros_like(values)
        share = stats.paired_difference(values, zero, rng, method.resamples, method.confidence)
    row |= {"n": len(values), "stderr": _standard_error(values), "margin": method.margin}
    row |= dict(zip(("value", "low", "high"), share, strict=True))
    if arm != BASELINE and baseline is not None:
        row |= _difference(measure, arm, values, np.array([baseline[name] for name in scores]), method)
    return row


def _difference(
    measure: Measure,
    arm: str,
    values: Float[np.ndarray, " question"],
    before: Float[np.ndarray, " question"],
    method: Method,
) -> Row:
    rng = method.rng(*measure, arm, "difference")
    change = stats.paired_difference(values, before, rng, method.resamples, method.confidence)
    row: Row = dict(zip(("difference", "difference_low", "difference_high"), change, strict=True))
    if np.isin(values, (0, 1)).all() and np.isin(before, (0, 1)).all():
        right, wrong = values == 1, before == 1
        row["p"] = stats.mcnemar(right, wrong)
        row["equivalence_p"] = stats.equivalence(right, wrong, method.margin)
    return row


def _standard_error(values: Float[np.ndarray, " question"]) -> float:
    """Of a mean, from the spread of its values, as the harness gives it."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def _adjust(rows: Sequence[Row]) -> None:
    """p-values that hold over all arms (Holm 1979)."""
    tested = [row for row in rows if "p" in row]
    adjusted = stats.holm(np.array([row["p"] for row in tested]))
    for row, value in zip(tested, adjusted, strict=True):
        row["p_holm"] = float(value)
