"""Figure: how far each judge agrees with labels that people or a parser gave, over the length of the reply.

A panel per labelled set; Cohen's kappa, agreement beyond chance, with its bootstrap interval.
"""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from pandas import DataFrame

from steer.figures import style
from steer.figures.inputs import Inputs, Settings, read_table
from steer.figures.output import save
from steer.figures.points import handles, looks, whiskers

COLUMNS = (
    *("labelled", "judge", "length", "shortened", "n", "unscored"),
    *("accuracy", "accuracy_low", "accuracy_high", "kappa", "kappa_low", "kappa_high"),
)
APART = 0.12


def table(inputs: Inputs) -> DataFrame:
    """A row per labelled set, judge and length.

    Raises:
        SteerError: a table is missing or empty.
    """
    rows = [read_table(path, COLUMNS)[list(COLUMNS)] for path in inputs["labelled"]]
    return pd.concat(rows, ignore_index=True).astype({"length": str})


def plot(rows: DataFrame, settings: Settings) -> Figure:
    """One panel per labelled set."""
    sets, judges = list(dict.fromkeys(rows["labelled"])), looks(list(dict.fromkeys(rows["judge"])))
    lengths = list(dict.fromkeys(rows["length"]))
    figure = style.canvas(1.2 + 3.1 * len(sets), 3.6)
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, sets, strict=True):
        of_set = rows[rows["labelled"] == name]
        for place, (judge, look) in enumerate(judges.items()):
            found = of_set[of_set["judge"] == judge]
            shift = APART * (place - (len(judges) - 1) / 2)
            at = [lengths.index(length) + shift for length in found["length"]]
            whiskers(axes, at, found, ("kappa", "kappa_low", "kappa_high"), look)
        axes.set_xticks(range(len(lengths)), lengths)
        axes.set_xlim(-0.5, len(lengths) - 0.5)
        axes.set_ylim(min(-0.05, rows["kappa_low"].min()), 1.03)
        axes.grid(visible=True, axis="y")
        axes.set_title(f"{name}, n = {of_set['n'].max()}", size=9.5)
        axes.set_xlabel("words and marks of the reply")
    panels[0].set_ylabel("Cohen's κ with the label")
    style.headline(figure, "Judges against labelled replies")
    level = style.per_cent(settings["scores.confidence"])
    style.legend_below(figure, [*handles(judges), style.interval_handle(f"{level} bootstrap interval")])
    return figure


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`."""
    rows = table(inputs)
    with style.applied():
        save(plot(rows, settings), rows, stem)
