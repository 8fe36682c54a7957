"""Figure: what each arm's replies are on each prompt set, in three classes with intervals.

Refusals grow from the left edge and full responses from the right one, so that both have a
straight base to be compared on; what is broken stands between them.
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from pandas import DataFrame

from steer.figures import style
from steer.figures.inputs import Inputs, Settings, records
from steer.figures.output import save
from steer.figures.scores import COUNTS, RATES, shown
from steer.figures.slots import name_slots, slots

BAR = 0.66
PANEL_WIDTH = 2.9
ROW_HEIGHT = 0.34
# A number is printed inside a bar that has room for it.
ROOM = 0.16


def table(inputs: Inputs, settings: Settings) -> DataFrame:
    """A row per arm and set: counts and the three rates with Wilson intervals."""
    return shown(inputs["scores"][0], settings, (*COUNTS, *RATES))


def _bars(axes: Axes, rows: DataFrame, heights: list[float]) -> None:
    refusal, broken, full = (
        rows[f"{name}_rate"].to_numpy() for name in ("refusal", "non_response", "full_response")
    )
    starts = {"refusal": 0 * refusal, "non_response": refusal, "full_response": 1 - full}
    for name, width in (("refusal", refusal), ("non_response", broken), ("full_response", full)):
        look = style.VERDICTS[name]
        axes.barh(
            heights, width, BAR, starts[name], color=look.colour, hatch=look.hatch, edgecolor="white", lw=0
        )


def _whiskers(axes: Axes, rows: DataFrame, heights: list[float]) -> list[ErrorbarContainer]:
    refusal, full = rows["refusal_rate"], rows["full_response_rate"]
    ends = (
        (refusal, refusal - rows["refusal_low"], rows["refusal_high"] - refusal, 0.12),
        (1 - full, rows["full_response_high"] - full, full - rows["full_response_low"], -0.12),
    )
    return [
        axes.errorbar(
            at,
            [height + shift for height in heights],
            xerr=[below.clip(lower=0), above.clip(lower=0)],
            fmt="none",
            ecolor=style.INK,
            elinewidth=1.1,
            capsize=2.2,
        )
        for at, below, above, shift in ends
    ]


def _numbers(axes: Axes, rows: DataFrame, heights: list[float]) -> None:
    for height, row in zip(heights, records(rows), strict=True):
        shares = (
            (0.02, row["refusal_rate"], "left", "white"),
            (0.98, row["full_response_rate"], "right", style.INK),
        )
        for x, share, side, colour in shares:
            if share >= ROOM:
                axes.text(x, height, style.per_cent(share), ha=side, va="center", color=colour, size=8)
        if row["unscored"]:
            note = f"{row['unscored']:.0f} unscored"
            axes.text(1.01, height, note, ha="left", va="center", color=style.FAINT, size=7)


def _title(rows: DataFrame) -> str:
    first = rows.iloc[0]
    counts = sorted({int(n) for n in rows["n"]})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    return f"{first['set']}\n{first['label']} prompts, n = {n}"


def _panel(axes: Axes, rows: DataFrame, arms: dict[str, float]) -> None:
    heights = [arms[arm] for arm in rows["arm"]]
    _bars(axes, rows, heights)
    _whiskers(axes, rows, heights)
    _numbers(axes, rows, heights)
    style.share_axis(axes, "x")
    axes.set_title(_title(rows), size=9.5)
    axes.set_xlabel("share of replies (%)")
    axes.tick_params(axis="y", length=0)


def plot(rows: DataFrame, settings: Settings) -> Figure:
    """One panel per set, one bar per arm, in the same order in each."""
    arms, headings = slots(rows)
    sets = list(dict.fromkeys(rows["set"]))
    lowest = min(arms.values())
    figure = style.canvas(1.7 + PANEL_WIDTH * len(sets), 1.6 + ROW_HEIGHT * (1 - lowest))
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, sets, strict=True):
        _panel(axes, rows[rows["set"] == name], arms)
    name_slots(panels[0], arms, headings)
    level = settings["scores"]["confidence"]
    style.headline(
        figure, f"{settings['model']}: what the replies are, judged by “{settings['scores']['judge']}”"
    )
    interval = style.interval_handle(f"{style.per_cent(level)} Wilson interval")
    style.legend_below(figure, [*style.verdict_patches(), interval])
    return figure


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`."""
    rows = table(inputs, settings)
    with style.applied():
        save(plot(rows, settings), rows, stem)
