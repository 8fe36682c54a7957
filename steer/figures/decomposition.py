"""Figure: how much of an arm's effect needs routing to change, and how much routing alone brings about.

For each arm that the configuration takes apart: the effect of the whole arm, of its edits with every token
routed as in the unsteered model, and of its routing alone. The effect is the change of the share of
refusals (and of full responses) against the unsteered model, over the same prompts.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from pandas import DataFrame

from steer.figures import style
from steer.figures.inputs import Inputs, Settings, records
from steer.figures.output import save
from steer.figures.scores import shown
from steer.judges.behaviours import REFUSAL

VERDICTS = ("refusal", "full_response")
COLUMNS = tuple(f"{verdict}_difference{end}" for verdict in VERDICTS for end in ("", "_low", "_high"))
PARTS = {
    "whole": style.Look("the whole arm", "#222222"),
    "edits": style.Look("its edits, routing held", "#0072B2", "////"),
    "routing": style.Look("its routing alone", "#E69F00", "...."),
}
BAR = 0.26


def table(inputs: Inputs, settings: Settings) -> DataFrame:
    """A row per arm taken apart, part and set it is meant for: changes with their paired intervals."""
    scores = shown(inputs["scores"][0], settings, COLUMNS)
    arms = settings["arms"]
    parts = {name: (arm["of"], arm["part"]) for name, arm in arms.items() if "of" in arm}
    parts |= {whole: (whole, "whole") for whole, _ in list(parts.values())}
    rows = scores[scores["arm"].isin(list(parts))].copy()
    rows["of"] = [parts[arm][0] for arm in rows["arm"]]
    rows["part"] = [parts[arm][1] for arm in rows["arm"]]
    meant = [REFUSAL.is_for(arms[row["of"]]["polarity"], {row["label"]}) for row in records(rows)]
    order = list(PARTS)
    rows = rows[meant].sort_values("part", key=lambda part: part.map(order.index), kind="stable")
    # A set that only the whole arm answers shows no parts: they would look like nothing.
    rows = rows[rows.groupby(["of", "set"])["part"].transform("nunique") > 1]
    return DataFrame(rows[["of", "part", "arm", "set", "label", *COLUMNS]].reset_index(drop=True))


def _bars(axes: Axes, rows: DataFrame, verdict: str, places: dict[tuple[str, str], float]) -> None:
    name = f"{verdict}_difference"
    for shift, (part, look) in zip((BAR, 0.0, -BAR), PARTS.items(), strict=True):
        mine = rows[rows["part"] == part]
        heights = [places[row["of"], row["set"]] + shift for row in records(mine)]
        value, low, high = (mine[f"{name}{end}"].to_numpy(float) for end in ("", "_low", "_high"))
        axes.barh(heights, value, BAR, color=look.colour, hatch=look.hatch, edgecolor="white", lw=0)
        reach = np.clip([value - low, high - value], 0, None)
        axes.errorbar(value, heights, xerr=reach, fmt="none", ecolor=style.FAINT, elinewidth=1.1, capsize=2.0)
    axes.axvline(0, color=style.INK, lw=0.8)


def _panel(axes: Axes, rows: DataFrame, verdict: str, places: dict[tuple[str, str], float]) -> None:
    _bars(axes, rows, verdict, places)
    axes.set_xlim(-1.05, 1.05)
    axes.set_xticks([-1, -0.5, 0, 0.5, 1], ["−100", "−50", "0", "+50", "+100"])
    axes.xaxis.grid(visible=True)
    axes.set_title(style.VERDICTS[verdict].label, size=9)
    axes.set_xlabel("change against unsteered (points)")


def plot(rows: DataFrame, settings: Settings) -> Figure:
    """Two panels, refusals and full responses; three bars for each arm on each set."""
    keys: list[tuple[Any, ...]] = [*rows[["of", "set"]].drop_duplicates().itertuples(index=False, name=None)]
    places = {(str(of), str(name)): -float(at) for at, (of, name) in enumerate(keys)}
    figure = style.canvas(9.0, 1.6 + 0.75 * len(keys))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, verdict in zip(panels, VERDICTS, strict=True):
        _panel(axes, rows, verdict, places)
    panels[0].set_yticks([*places.values()], [f"{of}\non {name}" for of, name in places])
    panels[0].tick_params(axis="y", length=0)
    level = style.per_cent(settings["scores"]["confidence"])
    style.headline(figure, f"{settings['model']}: arms taken apart into edits and routing")
    handles = [
        Patch(fc=look.colour, hatch=look.hatch, ec="white", lw=0, label=look.label) for look in PARTS.values()
    ]
    style.legend_below(figure, [*handles, style.interval_handle(f"{level} paired bootstrap interval")])
    return figure


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`."""
    rows = table(inputs, settings)
    with style.applied():
        save(plot(rows, settings), rows, stem)
