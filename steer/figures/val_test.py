"""Figure: what the choice of an arm promised on `val`, beside what the arm does on `test`.

The best of many candidates on a few prompts is partly lucky there (the winner's curse); `test` had no say.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from steer.errors import SteerError
from steer.figures import style
from steer.figures.inputs import Inputs, Settings, read_table, records
from steer.figures.output import save
from steer.judges.behaviours import REFUSAL
from steer.stats import Interval, difference_of_shares, wilson

COUNTS = ("refusal", "full_response", "non_response")
COLUMNS = ("arm", "polarity", "set", "n", *COUNTS, "chosen")
RATE = ("rate", "low", "high")
TESTED = (
    *("arm", "set", "judge", "n", "unscored"),
    *(f"{verdict}_{part}" for verdict in REFUSAL.compared for part in RATE),
)
SPLITS = {
    "val": style.Look("chosen by (val)", style.GREY, marker="^"),
    "test": style.Look("reported (test)", style.CHOICE, marker="o"),
}
ROW_HEIGHT = 0.42


def table(inputs: Inputs, settings: Settings) -> DataFrame:
    """A row per chosen arm: its rate on val (greedy) and in scores.csv (test), and what the first promised.

    The interval of the difference is Newcombe's, for other prompts on both sides.

    Raises:
        SteerError: no chosen arm was run on the set that it was chosen on.
    """
    judge = settings["selection.strength.judge"]
    scores = read_table(inputs["scores"][0], TESTED)
    tested = {(row["arm"], row["set"]): row for row in records(scores[scores["judge"] == judge])}
    level = settings["scores"]["confidence"]
    found = [
        row
        for path in inputs["chosen"]
        for raw in _choices(path)
        for choice in [{**raw, "set": settings["contrast"].get(raw["set"], raw["set"])}]
        if (choice["arm"], choice["set"]) in tested
        for row in [_row(choice, tested[choice["arm"], choice["set"]], level)]
    ]
    if not found:
        cause = f"has no arm on the set that it was chosen on, judged by `{judge}`"
        raise SteerError(str(inputs["scores"][0]), cause, "add the sets of `contrast` to `generation.sets`")
    return DataFrame(found)


def _choices(path: Path) -> Iterator[dict[str, Any]]:
    """The chosen candidates of a table of selection, each with the number of those that were judged."""
    rows = read_table(path, COLUMNS)
    judged = rows[rows["n"].notna()]
    for arm, part in judged.groupby("arm", sort=False):
        for row in records(part[part["chosen"].astype(bool)].head(1)):
            yield {**row, "arm": arm, "candidates": len(part)}


def _row(choice: dict[str, Any], test: dict[str, Any], level: float) -> dict[str, Any]:
    verdict = REFUSAL.wanted(choice["polarity"])
    judged = int(sum(choice[one] for one in COUNTS))
    val = wilson(int(choice[verdict]), judged, level)
    reported = Interval(*(test[f"{verdict}_{part}"] for part in RATE))
    row: dict[str, Any] = {"arm": choice["arm"], "set": choice["set"], "verdict": verdict}
    row["candidates"] = choice["candidates"]
    for name, share, n in (("val", val, judged), ("test", reported, round(test["n"] - test["unscored"]))):
        row[f"{name}_n"] = n
        row |= dict(zip((f"{name}_rate", f"{name}_low", f"{name}_high"), share, strict=True))
    names = ("promised_more", "promised_more_low", "promised_more_high")
    return row | dict(zip(names, difference_of_shares(val, reported), strict=True))


def _rates(axes: Axes, rows: DataFrame) -> None:
    for name, shift in (("val", 0.14), ("test", -0.14)):
        look = SPLITS[name]
        rate = rows[f"{name}_rate"]
        ends = [(rate - rows[f"{name}_low"]).clip(lower=0), (rows[f"{name}_high"] - rate).clip(lower=0)]
        heights = [shift - place for place in range(len(rows))]
        axes.errorbar(rate, heights, xerr=ends, fmt=look.marker, color=look.colour, ms=5, elinewidth=1)
    style.share_axis(axes, "x")
    axes.set_xlim(-0.03, 1.03)
    axes.set_yticks([-place for place in range(len(rows))])
    axes.set_yticklabels(
        [f"{row['arm']} ({row['verdict']}, best of {row['candidates']})" for row in records(rows)]
    )
    axes.set_xlabel("share of replies (%)")


def _promises(axes: Axes, rows: DataFrame) -> None:
    value = 100 * rows["promised_more"]
    ends = [value - 100 * rows["promised_more_low"], 100 * rows["promised_more_high"] - value]
    axes.axvline(0, color=style.FAINT, lw=0.7)
    heights = [-place for place in range(len(rows))]
    axes.errorbar(value, heights, xerr=ends, fmt="s", color=style.INK, ms=4, elinewidth=1)
    axes.set_xlabel("val − test (points)")


def plot(rows: DataFrame, settings: Settings) -> Figure:
    """Both rates of every arm, and their difference beside them."""
    figure = style.canvas(9.2, 1.5 + ROW_HEIGHT * len(rows))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    _rates(left, rows)
    _promises(right, rows)
    style.headline(figure, f"{settings['model']}: what the choice promised, and what it holds")
    handles = style.marker_handles(SPLITS.values())
    level = style.per_cent(settings["scores"]["confidence"])
    style.legend_below(figure, [*handles, style.interval_handle(f"{level} interval")])
    return figure


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`."""
    rows = table(inputs, settings)
    with style.applied():
        save(plot(rows, settings), rows, stem)
