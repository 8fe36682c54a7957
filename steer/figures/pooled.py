"""Figure: arms that were drawn several times, their means with intervals and each seed as a point.

Controls over the seeds that they were drawn with, and sampled replies over their sampling seeds: how much of
what tells two arms apart is the luck of a draw.
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame

from steer.errors import SteerError
from steer.figures import style
from steer.figures.inputs import Inputs, Settings, read_table, records
from steer.figures.output import save
from steer.figures.points import whiskers

PARTS = ("", "_low", "_high", "_sd", "_each")
KEYS = ("arm", "over", "set", "judge", "seeds", "n")
OVER = {"seeds": "seeds of the control", "samples": "sampling seeds"}
SHOWN = ("refusal", "full_response")
COLUMNS = (*KEYS, *(f"{verdict}_rate{part}" for verdict in SHOWN for part in PARTS))
WIDTH, ROW_HEIGHT, STEP = 7.6, 0.36, 0.17


def table(inputs: Inputs, settings: Settings) -> DataFrame:
    """The rows of the judge that scores are shown by, set by set, seeds of controls first.

    Raises:
        SteerError: the table is missing, or has rows, but none of that judge.
    """
    path, judge = inputs["pooled"][0], settings["scores"]["judge"]
    rows = read_table(path, COLUMNS, empty=True)
    kept = rows[rows["judge"] == judge][list(COLUMNS)]
    # A dense model has none of the controls on experts.
    if kept.empty and not rows.empty:
        raise SteerError(str(path), f"has no row by judge `{judge}`", "check scores.judge and score again")
    order = {name: place for place, name in enumerate(settings["generation.sets"])}
    keyed = kept.assign(
        at=kept["set"].map(order),
        by=kept["over"].map({name: place for place, name in enumerate(OVER)}),
    )
    found: DataFrame = keyed.sort_values(["by", "at"], kind="stable").drop(columns=["at", "by"])
    return found.reset_index(drop=True)


def _draw_verdict(axes: Axes, rows: DataFrame, verdict: str, shift: float) -> None:
    look = style.VERDICTS[verdict]
    at = [shift - float(place) for place in rows.index]
    columns = (f"{verdict}_rate", f"{verdict}_rate_low", f"{verdict}_rate_high")
    whiskers(axes, at, rows, columns, look, along="x")
    for height, row in zip(at, records(rows), strict=True):
        each = [float(one) for one in str(row[f"{verdict}_rate_each"]).split()]
        axes.hlines(height, min(each), max(each), color=look.colour, lw=0.7, alpha=0.5, zorder=1)
        seen = {"marker": "|", "color": look.colour, "s": 46, "linewidths": 1.1, "zorder": 3}
        axes.scatter(each, [height - STEP / 2] * len(each), clip_on=False, **seen)  # type: ignore[arg-type]


def plot(rows: DataFrame, settings: Settings) -> Figure:
    """A row for each arm and set: means with intervals, and under them what each seed gives."""
    figure = style.canvas(WIDTH, 1.5 + ROW_HEIGHT * len(rows))
    axes = figure.subplots()
    for verdict, shift in zip(SHOWN, (STEP, -STEP / 2), strict=True):
        _draw_verdict(axes, rows, verdict, shift)
    names = [f"{row['arm']}, {row['set']}  ({row['seeds']} {OVER[row['over']]})" for row in records(rows)]
    axes.set_yticks([-float(place) for place in rows.index], names, size=8)
    axes.set_ylim(min(-len(rows), -1) + 0.4, 0.6)
    if rows.empty:
        axes.text(0.02, 0, "no arm of this model was drawn several times", va="center")
    style.share_axis(axes, "x")
    # Marks at the ends stay off the axis.
    axes.set_xlim(-0.015, 1.015)
    axes.set_xlabel("share of replies (%)")
    title = f"{settings['model']}: how far seeds are apart, judged by “{settings['scores']['judge']}”"
    style.headline(figure, title)
    marks = style.marker_handles(style.VERDICTS[verdict] for verdict in SHOWN)
    seed = Line2D(
        [], [], ls="-", lw=0.7, marker="|", color=style.INK, ms=7, label="each seed, and their range"
    )
    level = style.per_cent(settings["scores"]["confidence"])
    style.legend_below(figure, [*marks, seed, style.interval_handle(f"{level} interval over prompts")])
    return figure


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`."""
    rows = table(inputs, settings)
    with style.applied():
        save(plot(rows, settings), rows, stem)
