"""A ranking of experts that others published, as a routing table."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from steer.artifacts.facts import ModelFacts, read_facts
from steer.artifacts.files import write_json
from steer.artifacts.provenance import file_digest, provenance
from steer.artifacts.routing import Column, write_routing
from steer.errors import SteerError
from steer.stats import log_odds_ratio

COUNTS = ("a1", "d1", "a2", "d2")
"""Tokens that chose the expert and tokens that did not, of side 1 and of side 2 (SteerMoE's names)."""


def import_ranking(ranking: Path, facts_path: Path, out: Path) -> None:
    """Write a published ranking as the routing table of a contrast, and beside it its origin.

    Args:
        ranking: a CSV file with `layer`, `expert` and either `a1, d1, a2, d2` or `risk_difference`.
        facts_path: `model.json` of the model that it is for.
        out: the routing table; what the ranking does not tell stays empty.

    Raises:
        SteerError: the file is missing or malformed, names an expert twice or one that the model does not
            have, or the model has no MoE layers.
    """
    facts = read_facts(facts_path)
    if not facts.moe_layers:
        raise SteerError(
            str(facts_path),
            "is of a model without MoE layers, so no ranking of experts is for it",
            "use a model with experts",
        )
    found = sorted(_rows(ranking, facts))
    if not found:
        raise SteerError(str(ranking), "has no rows", "give it a row for each expert")
    values = np.array(found)
    columns = {"layer": values[:, 0], "expert": values[:, 1]}
    write_routing(out, {**columns, **_statistics(values[:, 2:])})
    inputs = {"model": facts.digest, "ranking": file_digest(ranking)}
    origin = provenance("steer.routing.published", {}, inputs)
    write_json(out.with_suffix(".json"), {"ranking": str(ranking), "provenance": origin})


def _statistics(values: "np.ndarray[tuple[int, int], np.dtype[np.float64]]") -> dict[str, Column]:
    if values.shape[1] == 1:
        return {"risk_difference": values[:, 0]}
    count_1, not_1, count_2, not_2 = (column.astype(np.int64) for column in values.T)
    total_1, total_2 = count_1 + not_1, count_2 + not_2
    rate_1, rate_2 = count_1 / total_1, count_2 / total_2
    return {
        "count_1": count_1,
        "total_1": total_1,
        "count_2": count_2,
        "total_2": total_2,
        "rate_1": rate_1,
        "rate_2": rate_2,
        "risk_difference": rate_1 - rate_2,
        "log_odds_ratio": log_odds_ratio(count_1, total_1, count_2, total_2),
    }


def _rows(ranking: Path, facts: ModelFacts) -> Iterator[tuple[float, ...]]:
    if not ranking.is_file():
        raise SteerError(str(ranking), "no such file", "check `ranking` of the contrast")
    seen: set[tuple[float, ...]] = set()
    with ranking.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        columns = _columns(ranking, reader.fieldnames or ())
        for number, row in enumerate(reader, 2):
            where = f"{ranking}, line {number}"
            values = tuple(_number(row[name], name, where) for name in columns)
            _check(values, facts, where)
            if values[:2] in seen:
                raise SteerError(where, "names an expert for the second time", "remove one of the lines")
            seen.add(values[:2])
            yield values


def _columns(ranking: Path, header: Sequence[str]) -> tuple[str, ...]:
    for values in (COUNTS, ("risk_difference",)):
        if {"layer", "expert", *values} <= {*header}:
            return ("layer", "expert", *values)
    raise SteerError(
        str(ranking),
        f"has columns {', '.join(header) or 'none'}",
        "give it `layer`, `expert` and either `a1, d1, a2, d2` or `risk_difference`",
    )


def _number(text: str | None, name: str, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError as error:
        raise SteerError(where, f"`{name}` is {text!r}", "give it a number") from error
    if not np.isfinite(value) or (name != "risk_difference" and (value < 0 or value != int(value))):
        raise SteerError(where, f"`{name}` is {text!r}", "give it a whole number that is not negative")
    return value


def _check(values: tuple[float, ...], facts: ModelFacts, where: str) -> None:
    layer, expert, *counts = values
    if layer not in facts.moe_layers or expert >= facts.experts:
        layers = f"{min(facts.moe_layers)} to {max(facts.moe_layers)}"
        cause = f"the model has no expert {expert:g} in layer {layer:g}"
        raise SteerError(where, cause, f"its MoE layers are {layers}, its experts 0 to {facts.experts - 1}")
    if len(counts) == len(COUNTS) and not (sum(counts[:2]) and sum(counts[2:])):
        raise SteerError(where, "one side of the contrast has no tokens", "leave the line out")
