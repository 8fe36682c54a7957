"""Stage `fluency`: grades from 1 to 5 into means with intervals, beside the baseline's."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from steer import stats
from steer.artifacts.files import Row, write_csv
from steer.artifacts.origin import attach, input_digests
from steer.artifacts.provenance import provenance
from steer.artifacts.replies import JudgedReply, Key, iter_replies, read_verdicts
from steer.errors import SteerError
from steer.judges.verdicts import GRADES, UNSCORED
from steer.rates import BASELINE, Method
from steer.told import Told, amount, by_arm, scored, share

COLUMNS = (
    *("arm", "set", "judge", "n", "unscored", *(f"grade_{grade}" for grade in GRADES)),
    *("mean", "mean_low", "mean_high", "difference", "difference_low", "difference_high"),
)


def write_fluency(sets: Mapping[str, tuple[Path, Mapping[str, Path]]], out: Path, method: Method) -> None:
    """Write a row per arm, set and judge of fluency.

    Args:
        sets: by name of a prompt set, its generation file and the grades by judge.
        out: the table: prompts with each grade, a sampled reply counting as its share of one; the mean, and
            its paired difference to the baseline over the prompts that were graded in both, with bootstrap
            intervals over prompts.
        method: how intervals are made.

    Raises:
        SteerError: a file is missing or malformed, holds a verdict that is no grade, or has no baseline.
    """
    rows = [
        row
        for name, (generation, judging) in sets.items()
        for judge, path in judging.items()
        for row in _rows(name, judge, _read(generation, path), method)
    ]
    write_csv(out, rows, COLUMNS)
    inputs: dict[str, Sequence[Path]] = {
        "replies": [generation for generation, _ in sets.values()],
        "grades": [path for _, judging in sets.values() for path in judging.values()],
    }
    attach(out, provenance(__name__, asdict(method), input_digests(inputs), method.seed))


def _read(generation: Path, path: Path) -> dict[Key, JudgedReply]:
    found = read_verdicts(path, {reply.key: reply for reply in iter_replies(generation)})
    for judged in found.values():
        if judged.verdict not in (*GRADES, UNSCORED):
            raise SteerError(str(path), f"`{judged.verdict}` is no grade", "judge the set again")
    if not any(key.arm == BASELINE for key in found):
        raise SteerError(str(path), f"has no grades of arm `{BASELINE}`", "generate the set again")
    return found


def _rows(name: str, judge: str, found: Mapping[Key, JudgedReply], method: Method) -> Iterator[Row]:
    said = by_arm(found)
    grades = {arm: _graded(prompts) for arm, prompts in said.items()}
    for arm, graded in grades.items():
        prompts = list(said[arm].values())
        row: Row = {"arm": arm, "set": name, "judge": judge}
        row |= {"n": len(prompts), "unscored": amount(prompts, UNSCORED)}
        row |= {f"grade_{grade}": amount(prompts, grade) for grade in GRADES}
        row |= _interval("mean", graded, dict.fromkeys(graded, 0.0), method, name, judge, arm)
        if arm != BASELINE:
            row |= _interval("difference", graded, grades[BASELINE], method, name, judge, arm)
        yield row


def _graded(prompts: Mapping[str, Told]) -> dict[str, float]:
    """Mean grade of every prompt that has one."""
    return {
        prompt: sum(int(grade) * share(told, grade) for grade in GRADES)
        for prompt, told in prompts.items()
        if scored(told)
    }


def _interval(
    column: str, one: Mapping[str, float], other: Mapping[str, float], method: Method, *names: str
) -> Row:
    prompts = sorted({*one} & {*other})
    found = stats.paired_difference(
        np.array([one[prompt] for prompt in prompts], dtype=np.float64),
        np.array([other[prompt] for prompt in prompts], dtype=np.float64),
        method.rng(*names, column),
        method.resamples,
        method.confidence,
    )
    return dict(zip((column, f"{column}_low", f"{column}_high"), found, strict=True))
