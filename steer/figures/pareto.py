"""Figure: what each arm gains against what it costs, a panel per cost, with the front of the best trades."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame

from steer.controls import is_control
from steer.errors import SteerError
from steer.figures import style
from steer.figures.arms import GROUPS
from steer.figures.inputs import Inputs, Settings, read_table, records
from steer.figures.output import save
from steer.figures.scores import RATES, shown
from steer.judges.behaviours import REFUSAL

COSTS = {
    "kl": "KL of the first token\non harmless prompts (nats)",
    "perplexity": "perplexity of harmless\nreplies, ratio − 1",
    "over_refusal": "harmless prompts\nrefused (%)",
    "broken": "harmless prompts\nanswered brokenly (%)",
    "capability": "loss on tasks\n(points)",
}
SHARES = ("over_refusal", "broken", "capability")
GAINS = {group: REFUSAL.wanted(polarity) for polarity, group in GROUPS.items()}
"""What an arm of a group is for: refusing harmless prompts, or answering harmful ones."""
LOOKS = {
    False: style.Look("arm", style.CHOICE, marker="o"),
    True: style.Look("control", style.GREY, marker="^"),
}
APART = 0.08
"""Least distance in height of two names, so that neither is written over the other."""


def table(inputs: Inputs, settings: Settings) -> DataFrame:
    """A row per arm and cost: the gain and the cost with their intervals, and whether it is on the front."""
    rows = shown(inputs["scores"][0], settings, (*RATES, "first_token_kl", "coherence"))
    others = {path.stem: path for path in inputs["effects"]}
    found = []
    for gain in _gains(rows, settings):
        harmless = rows[(rows["arm"] == gain["arm"]) & (rows["label"] == "harmless")]
        for cost, (value, low, high) in _costs(gain, harmless, others):
            found.append({**gain, "cost": cost, "value": value, "value_low": low, "value_high": high})
    # What no judge could score has no place among the others.
    found = [row for row in found if row["gain"] == row["gain"] and row["value"] == row["value"]]
    if not found:
        cause = "has no arm with a scored gain and a measured cost"
        raise SteerError(str(inputs["scores"][0]), cause, "answer sets of both labels (`generation.sets`)")
    whole = DataFrame(found)
    whole["front"] = False
    for _, part in whole.groupby(["group", "cost"]):
        whole.loc[part.index, "front"] = front(part)
    return whole


def front(rows: DataFrame) -> list[bool]:
    """Which rows no other one beats: with at least its gain at less cost, or more gain at no more cost."""
    points = list(zip(rows["gain"], rows["value"], strict=True))
    return [
        not any(g >= gain and v <= value and (g, v) != (gain, value) for g, v in points)
        for gain, value in points
    ]


def _gains(rows: DataFrame, settings: Settings) -> Iterator[dict[str, Any]]:
    """Of every arm that steers, the rate that it is for, on the first set that it is for."""
    for polarity, group in GROUPS.items():
        verdict = GAINS[group]
        part = rows[(rows["group"] == group) & (rows["label"] == REFUSAL.labels[polarity])]
        for row in records(part.drop_duplicates("arm")):
            gain = {"gain": row[f"{verdict}_rate"]}
            gain |= {f"gain_{end}": row[f"{verdict}_{end}"] for end in ("low", "high")}
            control = is_control(settings["arms"][row["arm"]])
            yield {"group": group, "arm": row["arm"], "control": control, "set": row["set"], **gain}


def _costs(
    gain: dict[str, Any], harmless: DataFrame, others: dict[str, Path]
) -> Iterator[tuple[str, tuple[float, float, float]]]:
    none = float("nan")
    if not harmless.empty:
        row = records(harmless)[0]
        yield "kl", (row["first_token_kl"], none, none)
        if GAINS[gain["group"]] != "refusal":
            yield "over_refusal", (row["refusal_rate"], row["refusal_low"], row["refusal_high"])
        # Empty where `non_response` means weak: a judge with a score.
        if row["coherence"] == row["coherence"]:
            yield "broken", tuple(row[f"non_response_{part}"] for part in ("rate", "low", "high"))
    if "perplexity" in others:
        read = read_table(others["perplexity"], ("arm", "ratio", "ratio_low", "ratio_high"))
        for one in records(read[read["arm"] == gain["arm"]].head(1)):
            yield "perplexity", (one["ratio"] - 1, one["ratio_low"] - 1, one["ratio_high"] - 1)
    if "capability" in others:
        yield from _lost(others["capability"], gain["arm"])


def _lost(path: Path, arm: str) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """What is lost on a task, or on average over several, which has no interval."""
    rows = read_table(path, ("arm", "task", "subtask", "difference", "difference_low", "difference_high"))
    # The first metric of every task as a whole.
    mine = rows[(rows["arm"] == arm) & rows["subtask"].isna() & rows["difference"].notna()]
    tasks = records(mine.drop_duplicates("task"))
    if len(tasks) == 1:
        one = tasks[0]
        yield "capability", (-one["difference"], -one["difference_high"], -one["difference_low"])
    elif tasks:
        mean = sum(one["difference"] for one in tasks) / len(tasks)
        yield "capability", (-mean, float("nan"), float("nan"))


def _whiskers(rows: DataFrame, name: str) -> list[Any]:
    """Lengths of both ends of every interval; zero where there is none."""
    ends = (rows[name] - rows[f"{name}_low"], rows[f"{name}_high"] - rows[name])
    return [length.fillna(0).clip(lower=0) for length in ends]


def _panel(axes: Axes, rows: DataFrame, cost: str) -> None:
    scale = 100 if cost in SHARES else 1
    at = rows.assign(**{name: rows[name] * scale for name in ("value", "value_low", "value_high")})
    for control, part in at.groupby("control"):
        look = LOOKS[bool(control)]
        axes.errorbar(
            part["value"],
            part["gain"],
            xerr=_whiskers(part, "value"),
            yerr=_whiskers(part, "gain"),
            fmt=look.marker,
            color=look.colour,
            ms=4.5,
            elinewidth=0.7,
        )
    best = at[at["front"]].sort_values(["value", "gain"])
    axes.step(best["value"], best["gain"], where="post", color=style.INK, lw=0.9, zorder=0)
    named: list[float] = []
    # From the top down; what would be written over another name has its own in the table.
    for row in records(best[~best["control"]].sort_values("gain", ascending=False)):
        if all(height - row["gain"] >= APART for height in named):
            named.append(row["gain"])
            axes.annotate(
                row["arm"], (row["value"], row["gain"]), xytext=(4, 3), textcoords="offset points", size=7
            )
    style.share_axis(axes)
    axes.set_ylim(-0.03, 1.06)
    axes.set_xlabel(COSTS[cost], size=8)


def plot(rows: DataFrame, settings: Settings) -> Figure:
    """A row of panels per polarity, the strengthening one first."""
    groups = [group for group in GAINS if group in set(rows["group"])]
    costs = [cost for cost in COSTS if cost in set(rows["cost"])]
    figure = style.canvas(1.2 + 2.3 * len(costs), 1.1 + 2.5 * len(groups))
    panels = figure.subplots(len(groups), len(costs), sharey=True, squeeze=False)
    for line, group in zip(panels, groups, strict=True):
        for axes, cost in zip(line, costs, strict=True):
            part = rows[(rows["group"] == group) & (rows["cost"] == cost)]
            if part.empty:
                axes.set_axis_off()
                why = "here refusals\nare the aim" if cost == "over_refusal" else "not measured"
                axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", color=style.FAINT, size=8)
            else:
                _panel(axes, part, cost)
        word = "refused" if GAINS[group] == "refusal" else "answered"
        name = rows[rows["group"] == group]["set"].iloc[0]
        line[0].set_ylabel(f"{name} prompts {word} (%)", size=8)
        line[0].set_title(group, size=9)
    style.headline(figure, f"{settings['model']}: what arms gain, and what it costs")
    handles = style.marker_handles(LOOKS.values())
    level = style.per_cent(settings["scores"]["confidence"])
    front_line = Line2D([], [], color=style.INK, lw=0.9, label="front: no arm gains more for less")
    style.legend_below(figure, [*handles, front_line, style.interval_handle(f"{level} interval")])
    return figure


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`."""
    rows = table(inputs, settings)
    with style.applied():
        save(plot(rows, settings), rows, stem)
