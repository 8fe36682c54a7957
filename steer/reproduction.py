"""Stage `reproduction`: published numbers with ours beside them, and a verdict on each.

Two rates agree when the interval of their difference holds 0; a number whose own uncertainty is not known
agrees when our interval holds it. At 95 % about one comparison in twenty differs by chance alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from steer.artifacts.files import Row, write_csv
from steer.artifacts.origin import attach, input_digests
from steer.artifacts.provenance import provenance
from steer.artifacts.routing import read_routing
from steer.artifacts.tables import read_rows
from steer.config import ReproductionSettings
from steer.published import ROUNDING, Published, read_published, same_rate
from steer.stats import UNDEFINED, Interval, wilson

Verdict = Literal["agrees", "differs", "not comparable", "not run"]
VERDICTS: tuple[Verdict, ...] = ("agrees", "differs", "not comparable", "not run")
OUR_COLUMNS = (
    *("verdict", "why", "our_model", "our_arm", "our_set", "our_judge"),
    *("our_value", "our_low", "our_high", "our_n"),
)
COLUMNS = (*Published.model_fields, *OUR_COLUMNS)

# A rate of theirs, and the verdict whose share among the scored replies it is; `-` turns it round.
RATES = {
    "safe_rate": "-full_response",
    "refusal_rate": "refusal",
    "compliance_rate": "full_response",
    "success_rate": "full_response",
    "llamaguard2_unsafe_rate": "full_response",
    "substring_success_rate": "-refusal",
}
# Columns of a routing table: number and interval.
ROUTING = {
    "risk_difference": ("risk_difference", "ci_low", "ci_high"),
    "top1_difference": ("top1_difference", "top1_ci_low", "top1_ci_high"),
}
Scores = Mapping[tuple[str, str, str], Mapping[str, str]]


class Ours(NamedTuple):
    """A number of ours: with its interval, or with what is missing to have one."""

    why: str = ""
    arm: str = ""
    set: str = ""
    judge: str = ""
    interval: Interval = UNDEFINED
    n: int = 0


@dataclass(frozen=True)
class Results:
    """What one study found.

    Attributes:
        models: names of ours, by what `path` says.
        scores: the rows of `scores.csv`, by model.
        routing: routing tables, by model and contrast.
    """

    models: Mapping[str, str]
    scores: Mapping[str, Scores]
    routing: Mapping[tuple[str, str], Path]


def compare(row: Published, results: Results, settings: ReproductionSettings, confidence: float) -> Row:
    """A published row with ours beside it."""
    if row.kind == "contradiction":
        return {"verdict": "not comparable", "why": "published numbers contradict each other"}
    model = settings.models.get(row.model) or results.models.get(row.model)
    if model and model in results.scores:
        ours = _ours(row, model, results, settings)
        verdict, why = _judged(row, ours, confidence)
        return _filled(model, ours, verdict, why)
    why = f"no model here is `{row.model}`" if row.model else "names no model"
    stand_in = settings.stand_in
    if stand_in and stand_in in results.scores and row.expert is None:
        ours = _ours(row, stand_in, results, settings)
        if not ours.why:
            return _filled(stand_in, ours, "not comparable", f"{why}; `{stand_in}` stands in")
    return {"verdict": "not run", "why": why}


def _filled(model: str, ours: Ours, verdict: Verdict, why: str) -> Row:
    low, high = ours.interval.low, ours.interval.high
    names = {"our_model": model, "our_arm": ours.arm, "our_set": ours.set, "our_judge": ours.judge}
    numbers = {"our_value": ours.interval.estimate, "our_low": low, "our_high": high}
    known = {} if ours.why else {**numbers, "our_n": ours.n}
    return {"verdict": verdict, "why": why, **names, **known}


def _ours(row: Published, model: str, results: Results, settings: ReproductionSettings) -> Ours:
    if row.metric in ROUTING:
        return _routed(row, model, results, settings)
    if row.metric not in RATES:
        return Ours(f"`{row.metric}` is not measured here")
    names = {"arm": settings.arms, "set": settings.sets, "metric": settings.judges}
    for kind, found in names.items():
        if getattr(row, kind) not in found:
            return Ours(f"`reproduction` names nothing for the {kind} `{getattr(row, kind)}`")
    key = settings.arms[row.arm], settings.sets[row.set], settings.judges[row.metric]
    if key not in results.scores[model]:
        return Ours("there are no scores of arm {}, set {} and judge {}".format(*key))
    counts = results.scores[model][key]
    n = round(float(counts["n"]) - float(counts["unscored"]))
    verdict = RATES[row.metric].removeprefix("-")
    # A table has an empty cell where nothing was scored.
    share = Interval(*(float(counts[f"{verdict}_{part}"] or "nan") for part in ("rate", "low", "high")))
    if RATES[row.metric].startswith("-"):
        share = Interval(1 - share.estimate, 1 - share.high, 1 - share.low)
    return Ours("", *key, share, n)


def _routed(row: Published, model: str, results: Results, settings: ReproductionSettings) -> Ours:
    contrast = settings.contrasts.get(row.set, "")
    if (model, contrast) not in results.routing:
        return Ours(f"`reproduction` names no contrast for the set `{row.set}`")
    columns = read_routing(results.routing[model, contrast])
    (found,) = np.nonzero((columns["layer"] == row.layer) & (columns["expert"] == row.expert))
    if not len(found):
        return Ours(f"the model has no expert {row.expert} in layer {row.layer}")
    cells = [float(columns[name][found[0]]) for name in ROUTING[row.metric]]
    prompts = columns["prompts_1"][found[0]]
    return Ours("", "", contrast, "", Interval(*cells), 0 if np.isnan(prompts) else int(prompts))


def _judged(row: Published, ours: Ours, confidence: float) -> tuple[Verdict, str]:
    if ours.why:
        measured = row.metric in RATES or row.metric in ROUTING
        return ("not run" if measured else "not comparable"), ours.why
    _, low, high = ours.interval
    if np.isnan(low) or row.value is None:
        return "not comparable", "our number has no interval"
    if row.has_interval:
        same = same_rate(wilson(row.successes, row.prompts, confidence), ours.interval)
        return ("agrees" if same else "differs"), "interval of the difference"
    lowest, highest = _meant(row, row.value)
    agrees = low <= highest and high >= lowest
    return ("agrees" if agrees else "differs"), "our interval alone: theirs can't be known"


def _meant(row: Published, value: float) -> tuple[float, float]:
    """Both ends of what a published number says."""
    if row.relation in ("<", "<="):
        return -np.inf, value
    if row.relation in (">", ">="):
        return value, np.inf
    return value - ROUNDING, (value if row.value_to is None else row.value_to) + ROUNDING


def read_scores(path: Path) -> Scores:
    """The rows of `scores.csv`, by arm, set and judge.

    Raises:
        SteerError: the file is missing, or is no table of scores.
    """
    key = ("arm", "set", "judge")
    return {(row["arm"], row["set"], row["judge"]): row for row in read_rows(path, key)}


def _rows(
    published: Sequence[Published], results: Results, settings: ReproductionSettings, confidence: float
) -> Iterator[Row]:
    for row in published:
        yield {**row.model_dump(), **compare(row, results, settings, confidence)}


def write_reproduction(
    table: Path,
    models: Mapping[str, str],
    scores: Sequence[Path],
    routing: Sequence[Path],
    out: Path,
    settings: ReproductionSettings,
    confidence: float,
) -> None:
    """Write every published number with ours beside it.

    Args:
        table: the published numbers.
        models: names of ours, by what `path` says.
        scores: `scores.csv` of every model.
        routing: routing tables of the contrasts that `settings` name.
        out: the table, a row per published row and in the same order.
        settings: which of ours belongs to which of theirs.
        confidence: level of every interval.

    Raises:
        SteerError: a file is missing or malformed.
    """
    results = Results(
        models,
        {path.parent.name: read_scores(path) for path in scores},
        {(path.parent.parent.name, path.stem): path for path in routing},
    )
    published = read_published(table)
    write_csv(out, list(_rows(published, results, settings, confidence)), COLUMNS)
    inputs = input_digests({"published": table, "scores": scores, "routing": routing})
    attach(out, provenance("steer.reproduction", settings.model_dump(mode="json"), inputs))
