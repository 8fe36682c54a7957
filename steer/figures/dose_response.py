"""Figure: what adding the refusal direction does, over its coefficient, in verdicts and in KL.

Two rows of panels per arm, strengthening first: above the three verdicts on the `val` prompts that the
arm is meant for, below the KL divergence of the first token on them. A column per token scope.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from steer.errors import SteerError
from steer.figures import style
from steer.figures.arms import group_of, ordered
from steer.figures.doses import VERDICTS, norm_axis, verdict_handles
from steer.figures.inputs import Inputs, Settings, read_table, records
from steer.figures.output import save
from steer.judges.behaviours import REFUSAL
from steer.stats import wilson

COLUMNS = (
    *("arm", "operation", "polarity", "layer", "position", "coefficient", "scope", "direction_norm"),
    *("set", "n", *VERDICTS, "unscored", "kl", "chosen"),
)


def table(inputs: Inputs, settings: Settings) -> DataFrame:
    """A row per arm, scope and coefficient, for the layer and position that were chosen for the arm.

    `strength` is the coefficient without its sign, `dose` that times the norm of the direction, in
    units of the residual stream; `success_low` and `success_high` bound the share of the verdict that
    the arm is to bring about.

    Raises:
        SteerError: the table of trials is missing, or holds no trial of addition.
    """
    path = inputs["strength"][0]
    trials = read_table(path, COLUMNS)[list(COLUMNS)]
    trials = trials[(trials["operation"] == "add") & trials["arm"].isin(list(settings["arms"]))]
    if trials.empty:
        raise SteerError(str(path), "has no trial of `add`", "configure a tuned arm of that operation")
    rows = _of_chosen_place(trials)
    rows["strength"] = rows["coefficient"].abs()
    rows["dose"] = rows["strength"] * rows["direction_norm"]
    rows["scored"] = rows["n"] - rows["unscored"]
    rows["success"] = rows["polarity"].map(REFUSAL.wanted)
    intervals = [
        wilson(int(row[row["success"]]), int(row["scored"]), settings["scores.confidence"])
        for row in records(rows)
    ]
    rows["success_low"] = [interval.low for interval in intervals]
    rows["success_high"] = [interval.high for interval in intervals]
    return rows.sort_values(["arm", "scope", "strength"]).reset_index(drop=True)


def _of_chosen_place(trials: DataFrame) -> DataFrame:
    """Trials at the (layer, position) of each arm's chosen trial; an arm without one keeps its first."""
    place = ["layer", "position"]
    kept = trials.sort_values("chosen", ascending=False, kind="stable").drop_duplicates("arm")
    return trials.merge(kept[["arm", *place]], on=["arm", *place])


def _verdicts(axes: Axes, rows: DataFrame) -> None:
    x = rows["strength"]
    for name in VERDICTS:
        look = style.VERDICTS[name]
        colour = style.GREY if name == "non_response" else look.colour
        axes.plot(x, rows[name] / rows["scored"], look.dash, marker=look.marker, ms=4, color=colour)
    success = rows["success"].iloc[0]
    axes.fill_between(
        x,
        rows["success_low"],
        rows["success_high"],
        color=style.VERDICTS[success].colour,
        alpha=0.2,
        lw=0,
    )
    style.share_axis(axes)
    axes.set_ylim(-0.03, 1.03)


def _divergence(axes: Axes, rows: DataFrame, ceiling: float) -> None:
    axes.plot(rows["strength"], rows["kl"], "-D", ms=3, color=style.INK)
    axes.set_ylim(0, 1.05 * ceiling)
    axes.grid(visible=True, axis="y")


def _mark_choice(axes: Axes, rows: DataFrame, label: bool) -> None:
    for row in records(rows[rows["chosen"]]):
        axes.axvline(row["strength"], color=style.CHOICE, lw=1.6, zorder=0.5)
        if label:
            axes.annotate(
                f"chosen: {row['strength']:g}",
                (row["strength"], 1.0),
                xytext=(3, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                color=style.CHOICE,
                weight="bold",
                size=8,
            )


def _describe(rows: DataFrame, settings: Settings) -> str:
    first = rows.iloc[0]
    group = group_of(settings["arms"][first["arm"]])
    sign = "added" if first["polarity"] == "induce" else "subtracted"
    place = f"layer {first['layer']}, position −{-first['position']}"
    return f"{first['arm']} ({group}), {sign} at {place}: {first['set']} prompts, n = {first['n']}"


def _column(top: Axes, bottom: Axes, rows: DataFrame, ceiling: float) -> None:
    if rows["strength"].min() > 0:
        style.doubling_axis(top)
    _verdicts(top, rows)
    _divergence(bottom, rows, ceiling)
    _mark_choice(top, rows, label=True)
    _mark_choice(bottom, rows, label=False)
    top.tick_params(labelbottom=False)
    bottom.set_xlabel("coefficient |c|")
    norm_axis(bottom, rows)


def _heading(axes: Axes, text: str) -> None:
    """What a row of panels shows, over all of them; the titles below leave lines free for it."""
    heading = axes.annotate(
        text,
        (0, 1),
        xytext=(-34, 34),
        xycoords="axes fraction",
        textcoords="offset points",
        weight="bold",
        size=10,
    )
    heading.set_in_layout(False)


def plot(rows: DataFrame, settings: Settings) -> Figure:
    """Two rows of panels per arm, a column per scope."""
    arms = ordered(settings["arms"], rows["arm"])
    scopes = [scope for scope in ("all", "prompt", "generated") if scope in set(rows["scope"])]
    figure = style.canvas(1.2 + 3.1 * len(scopes), 0.9 + 4.2 * len(arms))
    ratios = [2.4, 1.0] * len(arms)
    grid = figure.add_gridspec(len(ratios), len(scopes), height_ratios=ratios)
    for place, arm in enumerate(arms):
        of_arm = rows[rows["arm"] == arm]
        ceiling = float(np.nanmax(of_arm["kl"])) or 1.0
        for column, scope in enumerate(scopes):
            top = figure.add_subplot(grid[2 * place, column])
            bottom = figure.add_subplot(grid[2 * place + 1, column], sharex=top)
            top.set_title(f"\n\ntokens edited: {scope}", weight="normal", pad=14)
            _column(top, bottom, of_arm[of_arm["scope"] == scope], ceiling)
            if column == 0:
                _heading(top, _describe(of_arm, settings))
                top.set_ylabel("share of replies (%)")
                bottom.set_ylabel("KL of first\ntoken, nats")
    judge = settings["selection.strength.judge"]
    style.headline(
        figure, f"{settings['model']}: dose and response of addition on “val”, judged by “{judge}”"
    )
    style.legend_below(figure, verdict_handles(settings["scores.confidence"]))
    return figure


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`."""
    rows = table(inputs, settings)
    with style.applied():
        save(plot(rows, settings), rows, stem)
