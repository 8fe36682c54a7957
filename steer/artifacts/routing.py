"""Routing tables: `results/<model>/routing/<contrast>.csv`, a row per (layer, expert).

Side 1 and side 2 are the two sides of the contrast, such as harmful and harmless prompts. The first
block of columns is the contract's (section 3), the second one adds to it:

    count_i, total_i            tokens of side i that chose the expert (top-k), and all tokens counted
    rate_i                      count_i / total_i: pooled over tokens
    risk_difference             rate_1 - rate_2, with its bootstrap interval over prompts
    p_value, q_value            of prompt_risk_difference; Benjamini-Hochberg over all experts
    log_odds_ratio              of the token counts, half a token added to each cell, nats
    top1_difference             difference of the shares of tokens whose strongest expert this one is
    prompt_stability            share of resamples of prompts in which it is among the top N by |difference|
    prompts_i                   prompts counted on side i
    prompt_rate_i               mean over prompts of the share of each prompt's tokens
    prompt_risk_difference      their difference, with its interval (prompt_ci_low, prompt_ci_high)
    half_stability              as `prompt_stability`, over random halves of the prompts
    category_stability          as `prompt_stability`, over categories left out one at a time
    top1_rate_i, top1_ci_*      shares and interval behind `top1_difference`

An empty cell is a number that can't be known, such as an interval of a published table.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped

from steer.artifacts.files import write_csv
from steer.errors import SteerError

CONTRACT_COLUMNS = (
    *("layer", "expert", "count_1", "total_1", "count_2", "total_2", "rate_1", "rate_2"),
    *("risk_difference", "ci_low", "ci_high", "p_value", "q_value", "log_odds_ratio"),
    *("top1_difference", "prompt_stability"),
)
FURTHER_COLUMNS = (
    *("prompts_1", "prompts_2", "prompt_rate_1", "prompt_rate_2"),
    *("prompt_risk_difference", "prompt_ci_low", "prompt_ci_high"),
    *("half_stability", "category_stability"),
    *("top1_rate_1", "top1_rate_2", "top1_ci_low", "top1_ci_high"),
)
COLUMNS = (*CONTRACT_COLUMNS, *FURTHER_COLUMNS)
WHOLE = ("layer", "expert", "count_1", "total_1", "count_2", "total_2", "prompts_1", "prompts_2")

Column = Shaped[np.ndarray, " experts"]


def write_routing(path: Path | str, columns: Mapping[str, Column]) -> None:
    """Write a routing table.

    Raises:
        ValueError: a column is unknown, or layer, expert or risk difference is missing.
    """
    needed = {"layer", "expert", "risk_difference"}
    if not needed <= columns.keys() <= {*COLUMNS}:
        raise ValueError(f"{path}: columns {sorted(columns)}")
    lists = {name: _cells(name, column) for name, column in columns.items()}
    rows = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    write_csv(path, rows, COLUMNS)


def _cells(name: str, column: Column) -> list[float | int | None]:
    if name not in WHOLE:
        return [float(value) for value in column]
    return [None if np.isnan(value) else int(value) for value in column]


def read_routing(path: Path | str) -> dict[str, Column]:
    """Every column of a routing table as float64, empty cells as NaN; layer and expert as int64.

    Raises:
        SteerError: the file is missing or is no routing table.
    """
    path = Path(path)
    if not path.is_file():
        raise SteerError(str(path), "no such file", "run the routing stage first")
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        rows = list(reader)
        missing = sorted({*COLUMNS} - {*(reader.fieldnames or ())})
    if missing or not rows:
        cause = f"lacks column `{missing[0]}`" if missing else "has no rows"
        raise SteerError(str(path), f"is no routing table: it {cause}", "remove it and run routing again")
    columns = {name: np.array([float(row[name] or "nan") for row in rows]) for name in COLUMNS}
    return {**columns, "layer": _index(columns["layer"]), "expert": _index(columns["expert"])}


def _index(column: Column) -> Int[np.ndarray, " experts"]:
    return column.astype(np.int64)
