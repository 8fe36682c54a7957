"""Figure: how often a judge says of a cut reply of the model what it says of the whole one."""

from pathlib import Path

from matplotlib.figure import Figure
from pandas import DataFrame

from steer.figures import style
from steer.figures.inputs import Inputs, Settings, read_table
from steer.figures.output import save
from steer.figures.points import handles, looks, whiskers

COLUMNS = ("judge", "length", "replies", "shortened", "scored", "same", "same_low", "same_high")
APART = 0.12


def plot(rows: DataFrame, settings: Settings) -> Figure:
    """One panel; a column per length."""
    judges, lengths = looks(list(dict.fromkeys(rows["judge"]))), list(dict.fromkeys(rows["length"]))
    figure = style.canvas(3.0 + 1.1 * len(lengths), 4.2)
    axes = figure.subplots()
    for place, (judge, look) in enumerate(judges.items()):
        found = rows[rows["judge"] == judge]
        shift = APART * (place - (len(judges) - 1) / 2)
        at = [lengths.index(length) + shift for length in found["length"]]
        whiskers(axes, at, found, ("same", "same_low", "same_high"), look)
    axes.set_xticks(range(len(lengths)), [f"{length}\nn = {_scored(rows, length)}" for length in lengths])
    axes.set_xlim(-0.5, len(lengths) - 0.5)
    style.share_axis(axes)
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("same verdict as on the whole reply (%)")
    axes.set_xlabel("words and marks that are left")
    style.headline(figure, f"{settings['model']}: verdicts on cut replies")
    level = style.per_cent(settings["scores.confidence"])
    style.legend_below(figure, [*handles(judges), style.interval_handle(f"{level} Wilson interval")])
    return figure


def _scored(rows: DataFrame, length: int) -> str:
    """Replies of a length that were scored, from the judge with the fewest to that with the most."""
    counts = rows.loc[rows["length"] == length, "scored"]
    ends = dict.fromkeys([counts.min(), counts.max()])
    return "–".join(map(str, ends))


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`."""
    rows = read_table(inputs["lengths"][0], COLUMNS)
    with style.applied():
        save(plot(rows, settings), rows, stem)
