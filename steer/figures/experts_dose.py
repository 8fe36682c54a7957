"""Figure: what the chosen expert, or the chosen layer's experts, do over the coefficient.

A column per arm, strengthening first: the three verdicts on the `val` prompts that the arm is meant for, the
refusal score of the first token on them, and the KL divergence on the prompts that are to be left alone.
"""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame

from steer.artifacts.files import read_json
from steer.errors import SteerError
from steer.figures import style
from steer.figures.arms import group_of, ordered
from steer.figures.doses import VERDICTS, norm_axis, verdict_handles
from steer.figures.inputs import Inputs, Settings, read_table, records
from steer.figures.output import save
from steer.judges.behaviours import REFUSAL
from steer.stats import wilson

PLACE = ("arm", "layer", "expert", "position")
COLUMNS = (
    *(*PLACE, "polarity", "direction_norm", "coefficient", "refusal_score", "kl", "stage"),
    *("scope", "set", "n", *VERDICTS, "unscored", "chosen"),
)
ACROSS = 4
RATIOS = (2.4, 1.0, 1.0)


def table(inputs: Inputs, settings: Settings) -> DataFrame:
    """A row per arm and coefficient, at the place and in the scope that were chosen for the arm.

    `strength` is the coefficient without its sign, `dose` that times the norm of the direction, in units of
    the residual stream; `success_low` and `success_high` bound the share of the verdict that the arm is to
    bring about; `unsteered_refusal_score` is the score at no dose.

    Raises:
        SteerError: a table is missing, or holds no choice for an arm that is shown.
    """
    path = inputs["experts_selection"][0]
    found = read_table(path, COLUMNS)[list(COLUMNS)]
    chosen = found[found["chosen"] & found["arm"].isin(list(settings["arms"]))]
    if chosen.empty:
        raise SteerError(str(path), "holds no choice", "choose experts again for the present arms")
    # pandas joins the missing expert of an arm on all experts with itself.
    place = chosen[[*PLACE, "scope"]].rename(columns={"scope": "chosen_scope"})
    rows = found[found["coefficient"].notna()].merge(place, on=list(PLACE))
    rows = rows[rows["scope"].isna() | (rows["scope"] == rows.pop("chosen_scope"))].copy()
    unsteered = _unsteered(inputs["experts_choice"][0], list(chosen["arm"]))
    rows["unsteered_refusal_score"] = rows["arm"].map(unsteered)
    rows["strength"] = rows["coefficient"].abs()
    rows["dose"] = rows["strength"] * rows["direction_norm"]
    rows["scored"] = rows["n"] - rows["unscored"]
    rows["success"] = rows["polarity"].map(REFUSAL.wanted)
    ends = [_success(row, settings["scores.confidence"]) for row in records(rows)]
    rows["success_low"], rows["success_high"] = [low for low, _ in ends], [high for _, high in ends]
    return rows.sort_values(["arm", "strength"]).reset_index(drop=True)


def _success(row: dict[str, Any], confidence: float) -> tuple[float | None, float | None]:
    """Ends of the interval of the wanted verdict; none for a dose that was not judged."""
    if row["scored"] != row["scored"]:
        return None, None
    interval = wilson(int(row[row["success"]]), int(row["scored"]), confidence)
    return interval.low, interval.high


def _unsteered(path: Path, arms: list[str]) -> dict[str, float]:
    choices = read_json(path).get("choices", {})
    lost = [arm for arm in arms if "baseline_refusal_score" not in choices.get(arm, {})]
    if lost:
        raise SteerError(str(path), f"says nothing of arm `{lost[0]}`", "choose experts again")
    return {arm: float(choices[arm]["baseline_refusal_score"]) for arm in arms}


def _verdicts(axes: Axes, rows: DataFrame) -> None:
    judged = rows[rows["scored"].notna()]
    for name in VERDICTS:
        look = style.VERDICTS[name]
        colour = style.GREY if name == "non_response" else look.colour
        share = judged[name] / judged["scored"]
        axes.plot(judged["strength"], share, look.dash, marker=look.marker, ms=4.5, color=colour)
    colour = style.VERDICTS[rows["success"].iloc[0]].colour
    low, high = (judged[end].astype(float) for end in ("success_low", "success_high"))
    axes.fill_between(judged["strength"], low, high, color=colour, alpha=0.2, lw=0)
    style.share_axis(axes)
    axes.set_ylim(-0.03, 1.03)


def _score(axes: Axes, rows: DataFrame) -> None:
    axes.plot(rows["strength"], rows["refusal_score"], "-D", ms=3, color=style.INK)
    axes.axhline(rows["unsteered_refusal_score"].iloc[0], color=style.FAINT, ls="--", lw=1.0)
    axes.grid(visible=True, axis="y")


def _divergence(axes: Axes, rows: DataFrame, threshold: float) -> None:
    axes.plot(rows["strength"], rows["kl"], "-D", ms=3, color=style.INK)
    axes.axhline(threshold, color=style.FAINT, ls=":", lw=1.4)
    axes.set_ylim(0, 1.1 * max(threshold, float(rows["kl"].max())))
    axes.grid(visible=True, axis="y")


def _head(axes: Axes, rows: DataFrame, settings: Settings) -> None:
    """Name the arm, what it is for, and the place that was chosen for it."""
    first = records(rows)[0]
    what = "all experts" if first["expert"] != first["expert"] else f"expert {first['expert']:.0f}"
    done = "added" if first["polarity"] == "induce" else "subtracted"
    asked = f"{rows['n'].max():.0f} {rows['set'].dropna().iloc[0]} prompts"
    axes.set_title(first["arm"], size=9.5, pad=27)
    axes.annotate(
        f"{group_of(settings['arms'][first['arm']])}; {asked}\n"
        f"layer {first['layer']:.0f}, {what}, position −{-first['position']:.0f}: {done}",
        (0, 1),
        xytext=(0, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        size=8,
    )


def _column(panels: list[Axes], rows: DataFrame, settings: Settings) -> None:
    top, middle, bottom = panels
    style.doubling_axis(top)
    _verdicts(top, rows)
    _score(middle, rows)
    _divergence(bottom, rows, settings["selection.experts.kl_threshold"])
    _head(top, rows, settings)
    for axes in panels:
        for strength in rows.loc[rows["chosen"], "strength"]:
            axes.axvline(strength, color=style.CHOICE, lw=1.6, zorder=0.5)
    for axes in (top, middle):
        axes.tick_params(labelbottom=False)
    meant_for = REFUSAL.labels[rows["polarity"].iloc[0]]
    left_alone = "harmless" if meant_for == "harmful" else "harmful"
    for axes, name in zip(
        panels,
        ("share of replies (%)", "refusal score,\nnats", f"KL, {left_alone}\nprompts, nats"),
        strict=True,
    ):
        axes.set_ylabel(name)
    bottom.set_xlabel("coefficient |c|")
    norm_axis(bottom, rows)


def plot(rows: DataFrame, settings: Settings) -> Figure:
    """Three panels per arm, four arms beside each other."""
    arms = ordered(settings["arms"], rows["arm"])
    across, down = min(len(arms), ACROSS), -(-len(arms) // ACROSS)
    figure = style.canvas(max(0.4 + 3.3 * across, 7.5), 1.0 + 5.6 * down)
    grid = figure.add_gridspec(len(RATIOS) * down, across, height_ratios=RATIOS * down)
    for place, arm in enumerate(arms):
        row, column = len(RATIOS) * (place // ACROSS), place % ACROSS
        top = figure.add_subplot(grid[row, column])
        below = [figure.add_subplot(grid[row + step, column], sharex=top) for step in (1, 2)]
        _column([top, *below], rows[rows["arm"] == arm], settings)
    judge = settings["selection.strength.judge"]
    style.headline(figure, f"{settings['model']}: dose and response of experts on “val”, judged by “{judge}”")
    style.legend_below(figure, _handles(settings["scores.confidence"]))
    return figure


def _handles(level: float) -> list[Line2D]:
    return [
        *verdict_handles(level),
        Line2D([], [], lw=1.6, color=style.CHOICE, label="chosen"),
        Line2D([], [], lw=1.0, ls="--", color=style.FAINT, label="unsteered"),
        Line2D([], [], lw=1.4, ls=":", color=style.FAINT, label="largest KL of a candidate"),
    ]


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`."""
    rows = table(inputs, settings)
    with style.applied():
        save(plot(rows, settings), rows, stem)
