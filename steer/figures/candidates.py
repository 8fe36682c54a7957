"""The scored candidates of every selection method: what the map of the selection draws."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pandas import DataFrame

from steer.artifacts.files import read_json
from steer.figures.inputs import Inputs, Settings, read_choice, read_table

COLUMNS = ("method", "layer", "position", "score", "value", "status", "chosen", "arms")
USABLE = ("chosen", "kept")


@dataclass(frozen=True)
class Score:
    """One panel: a score of one method, by its column.

    `signed` where 0 is the middle of the scale; `digits` are the significant ones that are printed.
    """

    method: str
    column: str
    title: str
    unit: str
    signed: bool = False
    digits: int = 2


LOG_ODDS = "log-odds of refusal"
SCORES = (
    Score(
        "arditi", "bypass_score", "Arditi: refusal after ablation (lower is better)", LOG_ODDS, signed=True
    ),
    Score(
        "arditi", "induce_score", "Arditi: refusal after addition (higher is better)", LOG_ODDS, signed=True
    ),
    Score("arditi", "kl", "Arditi: KL on harmless, ablated (lower is better)", "nats"),
    Score("cosmic", "score", "COSMIC: similarity (higher is better)", "sum of two cosines", digits=3),
)


def table(inputs: Inputs, settings: Settings) -> DataFrame:
    """A row per method, score, layer and position.

    `status` says why a candidate was left out; `arms` names the arms that use it in the end, which may
    be another than the chosen one where judged replies decided among the best.

    Raises:
        SteerError: a table or a choice is missing.
    """
    parts = [_rows(score, inputs, settings) for score in SCORES]
    return pd.concat(parts, ignore_index=True)[list(COLUMNS)]


def _rows(score: Score, inputs: Inputs, settings: Settings) -> DataFrame:
    columns = ("layer", "position", "status", score.column)
    rows = read_table(inputs[score.method][0], columns)[list(columns)]
    layer, position = read_choice(inputs[f"{score.method}_choice"][0])
    rows = rows.rename(columns={score.column: "value"}).sort_values(["layer", "position"])
    chosen = (rows["layer"] == layer) & (rows["position"] == position)
    tuned = _tuned(inputs["strength_choice"][0], settings["arms"], score.method)
    places = zip(rows["layer"], rows["position"], strict=True)
    arms = [" ".join(tuned.get(place, [])) for place in places]
    return rows.assign(method=score.method, score=score.column, chosen=chosen, arms=arms)


def _tuned(path: Path, arms: Settings, method: str) -> dict[tuple[int, int], list[str]]:
    """Arms of a selection method whose layer and position judged replies chose, by that place."""
    places: dict[tuple[int, int], list[str]] = {}
    for name, choice in read_json(path)["choices"].items():
        if name in arms and arms[name]["selection"] == method:
            places.setdefault((choice["layer"], choice["position"]), []).append(name)
    return places
