"""Figure: what the arms do on categories of harm that nothing was estimated, detected or chosen on.

Above, a row per arm: seen categories filled, unseen ones hollow, one under the other. Below, a public set
whose categories were all unseen, category by category, under the arms that did best on seen ones.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec, GridSpecFromSubplotSpec
from matplotlib.lines import Line2D
from pandas import DataFrame

from steer.errors import SteerError
from steer.figures import style
from steer.figures.arms import BASELINE, GROUPS, is_aside
from steer.figures.inputs import Inputs, Settings
from steer.figures.output import save
from steer.figures.scores import COUNTS, RATES, shown
from steer.figures.slots import name_slots, slots
from steer.judges.behaviours import REFUSAL

ALL_CATEGORIES = "*"
DRAWN = {"refusal": "refusals", "full_response": "full responses"}
# How many arms of a group are shown category by category: those that did best, on seen ones, at what a
# polarity is after.
BEST = {BASELINE: ("suppress", 1), GROUPS["induce"]: ("induce", 1), GROUPS["suppress"]: ("suppress", 3)}
PANEL_WIDTH = 2.25
ROW_HEIGHT = 0.34
SHIFT = 0.17


def table(inputs: Inputs, settings: Settings) -> DataFrame:
    """What is drawn: counts and rates by arm, set and category; `*` is all seen or all unseen ones.

    Raises:
        SteerError: the table is missing, or no harmful prompt of it has a category.
    """
    path = inputs["categories"][0]
    rows = shown(path, settings, ("category", "seen", *COUNTS, *RATES))
    whole = rows["category"] == ALL_CATEGORIES
    compared = rows["set"].isin(set(rows.loc[rows["seen"], "set"]))
    public = (rows["label"] == "harmful") & ~compared
    best = _best(rows[whole & (compared | public)], settings)
    drawn = rows[(whole & compared) | (~whole & public & rows["arm"].isin(best))]
    if drawn.empty:
        raise SteerError(str(path), "no harmful prompt has a category", "give the prompts categories")
    return DataFrame(drawn.reset_index(drop=True))


def _best(rows: DataFrame, settings: Settings) -> list[str]:
    """Arms of each group with most of what they are for on seen categories; no controls.

    Without seen categories they are the first of their group: what is unseen chooses nothing.
    """
    chosen: list[str] = []
    for group, (polarity, count) in BEST.items():
        known = rows[rows["seen"] & (rows["label"] == REFUSAL.labels[polarity])]
        rates = known.groupby("arm")[f"{REFUSAL.wanted(polarity)}_rate"].mean()
        arms = dict.fromkeys(rows.loc[rows["group"] == group, "arm"])
        shares = {arm: rates.get(arm, 0.0) for arm in arms if not is_aside(settings["arms"][arm])}
        chosen += sorted(shares, key=lambda arm: -shares[arm])[:count]
    return chosen


def _points(axes: Axes, rows: DataFrame, heights: Sequence[float], verdict: str, *, filled: bool) -> None:
    look = style.VERDICTS[verdict]
    rate = rows[f"{verdict}_rate"]
    ends = [rate - rows[f"{verdict}_low"], rows[f"{verdict}_high"] - rate]
    axes.errorbar(
        rate,
        heights,
        xerr=[end.clip(lower=0) for end in ends],
        fmt=look.marker,
        ms=5,
        mew=1.3,
        color=look.colour,
        mfc=look.colour if filled else "white",
        elinewidth=1.2,
        capsize=2.2,
        clip_on=False,
        zorder=3,
    )


def _share_axis(axes: Axes, heights: Sequence[float], title: str, pad: float = 6.0) -> None:
    style.share_axis(axes, "x")
    axes.set_xlabel("share of replies (%)")
    axes.set_title(title, size=9, pad=pad)
    axes.tick_params(axis="y", length=0)
    for height in heights:
        axes.axhline(height, color="#eeeeee", lw=0.6, zorder=0)


def _counts(rows: DataFrame) -> str:
    parts = []
    for word, part in (("seen", rows[rows["seen"]]), ("unseen", rows[~rows["seen"]])):
        if len(part):
            parts.append(f"{int(part['n'].max())} {word}")
    return f"n = {', '.join(parts)}"


def _compare(axes: Axes, rows: DataFrame, verdict: str, arms: dict[str, float]) -> None:
    """One verdict on one set: seen and unseen categories of each arm."""
    for filled, shift in ((True, SHIFT), (False, -SHIFT)):
        part = rows[rows["seen"] == filled]
        if len(part):
            _points(axes, part, [arms[arm] + shift for arm in part["arm"]], verdict, filled=filled)
    _share_axis(axes, list(arms.values()), f"{rows.iloc[0]['set']}: {DRAWN[verdict]}\n{_counts(rows)}")


def _categories(rows: DataFrame) -> dict[str, str]:
    """Categories with their sizes as they are written, the largest first."""
    sizes = rows.groupby("category")["n"].max()
    order = sorted(sizes.items(), key=lambda item: (-item[1], str(item[0])))
    return {str(category): f"{category} (n = {int(n)})" for category, n in order}


def _by_category(axes: Axes, rows: DataFrame, heights: dict[str, float]) -> None:
    """One arm on one set: both verdicts in each category."""
    at = [heights[category] for category in rows["category"]]
    for verdict, shift in zip(DRAWN, (SHIFT, -SHIFT), strict=True):
        _points(axes, rows, [height + shift for height in at], verdict, filled=False)
    _share_axis(axes, list(heights.values()), str(rows.iloc[0]["arm"]), pad=15.0)
    group = str(rows.iloc[0]["group"])
    axes.annotate(
        group, (0, 1), xytext=(0, 3), xycoords="axes fraction", textcoords="offset points", size=7.5
    )


def _legend(figure: Figure, settings: Settings) -> None:
    marks: list[Any] = [
        Line2D([], [], ls="", marker=look.marker, ms=6, color=look.colour, label=look.label)
        for look in (style.VERDICTS[verdict] for verdict in DRAWN)
    ]
    for label, face in (("seen categories", style.FAINT), ("unseen categories", "white")):
        marks.append(Line2D([], [], ls="", marker="D", ms=5.5, mew=1.3, c=style.FAINT, mfc=face, label=label))
    level = style.per_cent(settings["scores"]["confidence"])
    style.legend_below(figure, [*marks, style.interval_handle(f"{level} Wilson interval")])


def _row_of_panels(figure: Figure, cell: Any, count: int) -> list[Axes]:
    grid = GridSpecFromSubplotSpec(1, count, cell, wspace=0.1)
    first = figure.add_subplot(grid[0, 0])
    panels = [first, *(figure.add_subplot(grid[0, place], sharey=first) for place in range(1, count))]
    for axes in panels[1:]:
        axes.tick_params(labelleft=False)
    return panels


def _upper(figure: Figure, cell: Any, rows: DataFrame) -> None:
    arms, headings = slots(rows)
    wanted = [(name, verdict) for name in dict.fromkeys(rows["set"]) for verdict in DRAWN]
    panels = _row_of_panels(figure, cell, len(wanted))
    for axes, (name, verdict) in zip(panels, wanted, strict=True):
        _compare(axes, rows[rows["set"] == name], verdict, arms)
    name_slots(panels[0], arms, headings)


def _lower(figure: Figure, cell: Any, rows: DataFrame) -> None:
    labels = _categories(rows)
    heights = {category: -1.0 - place for place, category in enumerate(labels)}
    arms = list(dict.fromkeys(rows["arm"]))
    panels = _row_of_panels(figure, cell, len(arms))
    for axes, arm in zip(panels, arms, strict=True):
        _by_category(axes, rows[rows["arm"] == arm], heights)
    named = {labels[category]: height for category, height in heights.items()}
    name_slots(panels[0], named, {f"{rows.iloc[0]['set']}: all unseen": -0.25})


def plot(rows: DataFrame, settings: Settings) -> Figure:
    """Above, every arm on seen and on unseen categories; below, every set of unseen ones by category."""
    compared = rows[rows["category"] == ALL_CATEGORIES]
    public = rows[rows["category"] != ALL_CATEGORIES]
    parts = [
        part for part in (compared, *(part for _, part in public.groupby("set", sort=False))) if len(part)
    ]
    counts = [2 + len(set(part["arm"])) + len(set(part["group"])) for part in parts[: bool(len(compared))]]
    counts += [2 + part["category"].nunique() for part in parts[len(counts) :]]
    panels = max(4, len(DRAWN) * compared["set"].nunique())
    figure = style.canvas(
        1.7 + panels * PANEL_WIDTH, 1.1 + sum(0.75 + ROW_HEIGHT * count for count in counts)
    )
    grid = GridSpec(len(parts), 1, figure, height_ratios=[2 + count for count in counts])
    for place, part in enumerate(parts):
        (_upper if place == 0 and len(compared) else _lower)(figure, grid[place, 0], part)
    style.headline(
        figure,
        f"{settings['model']}: categories of harm that were seen and unseen,"
        f" judged by “{settings['scores']['judge']}”",
    )
    _legend(figure, settings)
    return figure


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`."""
    rows = table(inputs, settings)
    with style.applied():
        save(plot(rows, settings), rows, stem)
