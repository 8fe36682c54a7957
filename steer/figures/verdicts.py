"""Figure: what each arm's replies are on each prompt set, in classes with intervals.

What inducing is after grows from the left edge and what suppressing is after from the right one (refusals and
full responses), so that both have a straight base to be compared on; the others stand between them.
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from pandas import DataFrame

from steer.figures import style
from steer.figures.arms import GROUPS
from steer.figures.inputs import Inputs, Settings, records
from steer.figures.output import save
from steer.figures.page import amount
from steer.figures.scores import COUNTS, shown
from steer.figures.slots import name_slots, slots
from steer.judges.behaviours import BEHAVIOURS, Behaviour

BAR = 0.66
PANEL_WIDTH = 2.9
ROW_HEIGHT = 0.34
# What arms are for, in a study of something else than refusal.
HEADINGS = {
    "faithfulness": {GROUPS["induce"]: "towards the document", GROUPS["suppress"]: "towards memory"},
}
# A number is printed inside a bar that has room for it.
ROOM = 0.16


def table(inputs: Inputs, settings: Settings) -> DataFrame:
    """A row per arm and set: counts and the rate of each verdict with its Wilson interval."""
    verdicts = ordered(BEHAVIOURS[settings["behaviour"]])
    rates = (f"{verdict}_{part}" for verdict in verdicts for part in ("rate", "low", "high"))
    rows = shown(inputs["scores"][0], settings, (*COUNTS, *rates))
    return rows.replace({"group": HEADINGS.get(settings["behaviour"], {})})


def ordered(behaviour: Behaviour) -> list[str]:
    """The verdicts from the left edge to the right one."""
    ends = (behaviour.induced, behaviour.suppressed)
    return [ends[0], *(verdict for verdict in behaviour.verdicts if verdict not in ends), ends[1]]


def _bars(axes: Axes, rows: DataFrame, heights: list[float], verdicts: list[str]) -> None:
    start = 0 * rows["n"].to_numpy()
    for name in verdicts:
        width = rows[f"{name}_rate"].to_numpy()
        at = 1 - width if name == verdicts[-1] else start
        start = start + width
        look = style.OF_VERDICTS[name]
        axes.barh(heights, width, BAR, at, color=look.colour, hatch=look.hatch, edgecolor="white", lw=0)


def _whiskers(
    axes: Axes, rows: DataFrame, heights: list[float], verdicts: list[str]
) -> list[ErrorbarContainer]:
    left, right = verdicts[0], verdicts[-1]
    first, last = rows[f"{left}_rate"], rows[f"{right}_rate"]
    ends = (
        (first, first - rows[f"{left}_low"], rows[f"{left}_high"] - first, 0.12),
        (1 - last, rows[f"{right}_high"] - last, last - rows[f"{right}_low"], -0.12),
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


def _numbers(axes: Axes, rows: DataFrame, heights: list[float], verdicts: list[str]) -> None:
    for height, row in zip(heights, records(rows), strict=True):
        shares = (
            (0.02, row[f"{verdicts[0]}_rate"], "left", "white"),
            (0.98, row[f"{verdicts[-1]}_rate"], "right", style.INK),
        )
        for x, share, side, colour in shares:
            if share >= ROOM:
                axes.text(x, height, style.per_cent(share), ha=side, va="center", color=colour, size=8)
        if row["unscored"]:
            note = f"{amount(row['unscored'])} unscored"
            axes.text(1.01, height, note, ha="left", va="center", color=style.FAINT, size=7)


def _title(rows: DataFrame, behaviour: Behaviour) -> str:
    first = rows.iloc[0]
    counts = sorted({int(n) for n in rows["n"]})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    # Where no polarity is for prompts of a label, it says nothing.
    prompts = f"{first['label']} prompts" if behaviour.labels else "prompts"
    return f"{first['set']}\n{prompts}, n = {n}"


def _panel(axes: Axes, rows: DataFrame, arms: dict[str, float], behaviour: Behaviour) -> None:
    verdicts = ordered(behaviour)
    heights = [arms[arm] for arm in rows["arm"]]
    _bars(axes, rows, heights, verdicts)
    _whiskers(axes, rows, heights, verdicts)
    _numbers(axes, rows, heights, verdicts)
    style.share_axis(axes, "x")
    axes.set_title(_title(rows, behaviour), size=9.5)
    axes.set_xlabel("share of replies (%)")
    axes.tick_params(axis="y", length=0)


def plot(rows: DataFrame, settings: Settings) -> Figure:
    """One panel per set, one bar per arm, in the same order in each."""
    behaviour = BEHAVIOURS[settings["behaviour"]]
    verdicts = ordered(behaviour)
    arms, headings = slots(rows)
    sets = list(dict.fromkeys(rows["set"]))
    lowest = min(arms.values())
    figure = style.canvas(1.7 + PANEL_WIDTH * len(sets), 1.6 + ROW_HEIGHT * (1 - lowest))
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, sets, strict=True):
        _panel(axes, rows[rows["set"] == name], arms, behaviour)
    name_slots(panels[0], arms, headings)
    level = settings["scores"]["confidence"]
    style.headline(
        figure, f"{settings['model']}: what the replies are, judged by “{settings['scores']['judge']}”"
    )
    interval = style.interval_handle(f"{style.per_cent(level)} Wilson interval")
    style.legend_below(figure, [*style.verdict_patches(verdicts), interval])
    return figure


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`."""
    rows = table(inputs, settings)
    with style.applied():
        save(plot(rows, settings), rows, stem)
