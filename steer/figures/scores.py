"""Rows of scores.csv that figures show: one judge, arms and sets in their order of reading."""

from pathlib import Path

import pandas as pd
from pandas import DataFrame

from steer.errors import SteerError
from steer.figures.arms import group_of, ordered
from steer.figures.inputs import Settings, read_table

COUNTS = ("n", "unscored")
VERDICTS = ("refusal", "non_response", "full_response")
RATES = tuple(f"{verdict}_{part}" for verdict in VERDICTS for part in ("rate", "low", "high"))


def shown(path: Path, settings: Settings, columns: tuple[str, ...]) -> DataFrame:
    """`group, arm, set, label` and `columns` of the judge that the configuration shows, ordered.

    Raises:
        SteerError: the table is missing, or holds no verdict of that judge on a set that is shown.
    """
    scores = read_table(path, ("arm", "set", "judge", *columns))
    judge = settings["scores"]["judge"]
    rows = scores[(scores["judge"] == judge) & scores["set"].isin(settings["generation.sets"])].copy()
    rows = rows[rows["arm"].isin(list(settings["arms"]))]
    if rows.empty:
        raise SteerError(str(path), f"has no row of judge `{judge}`", "check scores.judge and score again")
    rows["group"] = [group_of(settings["arms"][arm]) for arm in rows["arm"]]
    rows["label"] = [settings["sets"][name]["label"] for name in rows["set"]]
    rows["arm"] = pd.Categorical(rows["arm"], ordered(settings["arms"], rows["arm"]), ordered=True)
    rows["set"] = pd.Categorical(rows["set"], list(settings["generation.sets"]), ordered=True)
    rows = rows.sort_values(["arm", "set"]).astype({"arm": str, "set": str})
    return DataFrame(rows[["group", "arm", "set", "label", *columns]].reset_index(drop=True))
