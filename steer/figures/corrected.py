"""Figure: rates of full responses as each judge gives them, and as its measured errors leave them.

A panel per set and a row per arm. Hollow: raw. Filled, with interval: corrected.
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame

from steer.errors import SteerError
from steer.figures import style
from steer.figures.arms import group_of, ordered
from steer.figures.inputs import Inputs, Settings, read_table
from steer.figures.output import save
from steer.figures.points import handles, looks, whiskers
from steer.figures.slots import name_slots, slots

SHOWN = "full_response"
RATE = (SHOWN, f"{SHOWN}_low", f"{SHOWN}_high")
COLUMNS = ("arm", "set", "judge", "labelled", "labels", "n", f"{SHOWN}_raw", *RATE, "note")
ROW_HEIGHT, PANEL_WIDTH, APART = 0.27, 2.3, 0.22


def table(inputs: Inputs, settings: Settings) -> DataFrame:
    """A row per arm, set and judge, in the order of the figures.

    Raises:
        SteerError: the table is missing, or holds no row of an arm that is configured.
    """
    path = inputs["corrected"][0]
    rows = read_table(path, COLUMNS)[list(COLUMNS)]
    arms = ordered(settings["arms"], rows["arm"])
    if not arms:
        cause = "has no row of an arm that is configured"
        raise SteerError(str(path), cause, "run the stage `correction` again")
    rows = rows[rows["arm"].isin(arms)]
    rows = rows.assign(group=rows["arm"].map(lambda arm: group_of(settings["arms"][arm])))
    return rows.sort_values("arm", key=lambda names: names.map(arms.index), kind="stable").reset_index(
        drop=True
    )


def _panel(axes: Axes, rows: DataFrame, arms: dict[str, float], judges: dict[str, style.Look]) -> None:
    for place, (judge, look) in enumerate(judges.items()):
        found = rows[rows["judge"] == judge]
        shift = APART * ((len(judges) - 1) / 2 - place)
        at = [arms[arm] + shift for arm in found["arm"]]
        axes.plot(found[f"{SHOWN}_raw"], at, ls="", marker=look.marker, ms=6, mfc="none", mec=look.colour)
        whiskers(axes, at, found, RATE, look, along="x")
    style.share_axis(axes, "x")
    axes.set_xlim(-0.03, 1.03)
    axes.tick_params(axis="y", length=0)


def plot(rows: DataFrame, settings: Settings) -> Figure:
    """One panel per set, the same arms in each."""
    arms, headings = slots(rows)
    sets, judges = list(dict.fromkeys(rows["set"])), looks(list(dict.fromkeys(rows["judge"])))
    figure = style.canvas(1.7 + PANEL_WIDTH * len(sets), 1.9 + ROW_HEIGHT * (1 - min(arms.values())))
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, sets, strict=True):
        _panel(axes, rows[rows["set"] == name], arms, judges)
        axes.set_title(name, size=9.5)
        axes.set_xlabel("full responses (%)")
    name_slots(panels[0], arms, headings)
    style.headline(figure, f"{settings['model']}: rates corrected for each judge's errors, and raw")
    raw = Line2D([], [], ls="", marker="o", mfc="none", mec=style.INK, label="raw (hollow)")
    level = style.per_cent(settings["scores.confidence"])
    style.legend_below(figure, [*handles(judges), raw, style.interval_handle(f"{level} interval, corrected")])
    return figure


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`."""
    rows = table(inputs, settings)
    with style.applied():
        save(plot(rows, settings), rows, stem)
