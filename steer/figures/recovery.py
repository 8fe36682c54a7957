"""Figure: how much of a whole edit's effect edits of experts recover.

A row per arm and set. Where the whole edit's effect can't be told from none there is no share to draw.
"""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame

from steer.errors import SteerError
from steer.figures import style
from steer.figures.inputs import Inputs, Settings, read_table
from steer.figures.output import save
from steer.figures.points import whiskers
from steer.recovery import RECOVERY_COLUMNS, SOURCE_SHARE

SHARE = ("share", "share_low", "share_high")
LOOKS = {
    "induce": style.Look("strengthens", style.VERDICTS["refusal"].colour, marker="o"),
    "suppress": style.Look("weakens", style.VERDICTS["full_response"].colour, marker="s"),
}
WIDTH, ROW_HEIGHT = 6.6, 0.32


def table(inputs: Inputs, settings: Settings) -> DataFrame:
    """The rows of the judge that scores are shown by, what strengthens first.

    Raises:
        SteerError: the table is missing, or has no row of that judge.
    """
    path, judge = inputs["recovery"][0], settings["scores"]["judge"]
    rows = read_table(path, RECOVERY_COLUMNS)
    rows = rows[rows["judge"] == judge]
    if rows.empty:
        cause = f"has no row by judge `{judge}`"
        raise SteerError(str(path), cause, "answer the set of `contrast` (`generation.sets`)")
    found: DataFrame = rows.sort_values("polarity", kind="stable").reset_index(drop=True)
    return found


def plot(rows: DataFrame, settings: Settings) -> Figure:
    """Shares with intervals, and what the source reports."""
    figure = style.canvas(WIDTH, 1.7 + ROW_HEIGHT * len(rows))
    axes = figure.subplots()
    for polarity, look in LOOKS.items():
        found = rows[(rows["polarity"] == polarity) & rows["share"].notna()]
        whiskers(axes, [-float(place) for place in found.index], found, SHARE, look, along="x")
    for place in rows.index[rows["share"].isna()]:
        axes.text(0.02, -float(place), "the whole effect can't be told from none", size=7.5, va="center")
    axes.axvline(SOURCE_SHARE, ls="--", lw=0.9, color=style.INK)
    axes.axvline(1, lw=0.7, color=style.INK, alpha=0.5)
    ends = [0.0, 1.0, *rows["share_low"].dropna(), *rows["share_high"].dropna()]
    axes.set_xlim(min(ends) - 0.03, max(ends) + 0.03)
    axes.set_yticks([-float(place) for place in rows.index])
    named = zip(rows["arm"], rows["whole"], rows["set"], strict=True)
    axes.set_yticklabels([f"{arm} of {whole}, {name}" for arm, whole, name in named], size=8)
    axes.set_ylim(-len(rows) + 0.4, 0.6)
    axes.set_xlabel("share of the whole edit's effect (1: all of it)")
    style.headline(figure, f"{settings['model']}: what experts recover of the whole effect")
    source = Line2D([], [], ls="--", lw=0.9, color=style.INK, label=f"{SOURCE_SHARE:.2f}, arXiv 2606.04160")
    marks = style.marker_handles(LOOKS.values())
    level = style.per_cent(settings["scores"]["confidence"])
    style.legend_below(figure, [*marks, source, style.interval_handle(f"{level} interval")])
    return figure


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`."""
    rows = table(inputs, settings)
    with style.applied():
        save(plot(rows, settings), rows, stem)
