"""Figure: how well each detector finds the experts in which refusal was put, by kind of plant.

Where experts carry refusal, a cell holds the average precision (median over models of that kind) and, in
small print, how many of them it got entirely right. Where none does, it says in how many models the detector
raises a false alarm. A frame marks detectors that measure what the plant was trained under, so that their
success is put in by construction. Named in bold with a tick: right on every planted model.
"""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from pandas import DataFrame

from steer.figures import style
from steer.figures.inputs import Inputs, Settings, read_table, records
from steer.figures.output import save

COLUMNS = (
    *("model", "plant", "detector", "related", "carriers", "precision", "average_precision"),
    *("ranks", "decoy_rank", "false_alarms"),
)
# Inches: no narrower than its headline.
NARROWEST = 6.2
CELL_WIDTH, CELL_HEIGHT = 1.15, 0.46
ALARM_MAP = "Oranges"


def table(inputs: Inputs) -> DataFrame:
    """A row per kind of plant and detector, over all models of that kind."""
    rows = read_table(inputs["scorecard"][0], COLUMNS)
    found = [_row(plant, detector, part) for (plant, detector), part in _groups(rows)]
    return DataFrame(found)


def _groups(rows: DataFrame) -> list[tuple[tuple[str, str], DataFrame]]:
    order = [tuple(key) for key in rows[["plant", "detector"]].drop_duplicates().itertuples(index=False)]
    return [(key, rows[(rows["plant"] == key[0]) & (rows["detector"] == key[1])]) for key in order]


def _row(plant: str, detector: str, part: DataFrame) -> dict[str, Any]:
    carried = bool(part["carriers"].notna().any())
    decoys = part[part["decoy_rank"].notna()]
    known = part["false_alarms"].dropna()
    return {
        "plant": plant,
        "detector": detector,
        "related": bool(part["related"].any()),
        "models": len(part),
        "carriers": carried,
        "average_precision": float(part["average_precision"].median()) if carried else None,
        "entirely_right": int((part["precision"] == 1).sum()) if carried else None,
        "false_alarms": None if carried or known.empty else int((known > 0).sum()),
        "unasked": len(part) - len(known),
        "decoy_first": int((decoys["decoy_rank"].astype(str).str.split(".").str[0] == "1").sum()),
        "with_decoy": len(decoys),
    }


def _cell(axes: Axes, column: int, row: int, entry: dict[str, Any]) -> None:
    # A table cell that holds nothing is NaN after pandas, and None before.
    value, colours, text = _shown(entry)
    if value is None:
        axes.text(column, row, "–", ha="center", va="center", color=style.FAINT)
        return
    colour = colours(Normalize(0, 1)(value))
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fc=colour, ec="white", lw=1.5))
    ink = style.ink_on(colour)
    axes.text(column, row, text, ha="center", va="center", size=8, color=ink)
    if entry["decoy_first"]:
        note = f"decoy first: {entry['decoy_first']:.0f}/{entry['with_decoy']:.0f}"
        axes.text(column, row + 0.32, note, ha="center", va="center", size=6, color=ink)
    if entry["related"]:
        frame = Rectangle(
            (column - 0.45, row - 0.42), 0.9, 0.84, fill=False, ec=style.CHOICE, lw=1.6, ls="--"
        )
        axes.add_patch(frame)


def _shown(entry: dict[str, Any]) -> tuple[float | None, Any, str]:
    name = "average_precision" if entry["carriers"] else "false_alarms"
    value = entry[name]
    if value is None or np.isnan(value):
        return None, None, ""
    if entry["carriers"]:
        text = f"{value:.2f}  ({entry['entirely_right']:.0f}/{entry['models']:.0f})"
        return value, mpl.colormaps[style.MAGNITUDE_MAP], text
    models = entry["models"]
    return value / models, mpl.colormaps[ALARM_MAP], f"alarm in {value:.0f}/{models:.0f}"


def _heading(plant: str, rows: DataFrame) -> str:
    mine = rows[rows["plant"] == plant]
    models = int(mine["models"].max())
    kind = "experts carry" if mine["carriers"].any() else "no expert carries"
    return f"{plant.replace('_', ' ')}\n{kind}\n{models} model{'s' if models > 1 else ''}"


def plot(rows: DataFrame) -> Figure:
    """A row per detector and a column per kind of plant, those that experts carry first."""
    by_kind = rows.drop_duplicates("plant").sort_values("carriers", ascending=False, kind="stable")
    plants, detectors = list(by_kind["plant"]), list(dict.fromkeys(rows["detector"]))
    width = max(2.6 + CELL_WIDTH * len(plants), NARROWEST)
    figure = style.canvas(width, 1.9 + CELL_HEIGHT * len(detectors))
    axes = figure.subplots()
    for entry in records(rows):
        _cell(axes, plants.index(entry["plant"]), detectors.index(entry["detector"]), entry)
    axes.set_xlim(-0.5, len(plants) - 0.5)
    axes.set_ylim(len(detectors) - 0.5, -0.5)
    axes.set_xticks(range(len(plants)), [_heading(plant, rows) for plant in plants], size=8)
    axes.xaxis.tick_top()
    passing = [name for name in detectors if _passes(rows[rows["detector"] == name])]
    marked = [f"{'✓ ' if name in passing else ''}{name.replace('_', ' ')}" for name in detectors]
    axes.set_yticks(range(len(detectors)), marked)
    for tick, name in zip(axes.get_yticklabels(), detectors, strict=True):
        if name in passing:
            tick.set_fontweight("bold")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    style.headline(figure, "Which detector finds the experts that refusal was put into")
    style.legend_below(figure, _legend())
    return figure


def _passes(rows: DataFrame) -> bool:
    """Whether a detector makes no mistake on any planted model, and was asked both questions."""
    planted = rows[rows["plant"] != "natural"]
    carried, free = planted[planted["carriers"]], planted[~planted["carriers"]]
    if carried.empty or free.empty:
        return False
    right = bool((carried["entirely_right"] == carried["models"]).all())
    return right and bool(((free["false_alarms"] == 0) & (free["unasked"] == 0)).all())


def _legend() -> list[Patch]:
    found, alarm = mpl.colormaps[style.MAGNITUDE_MAP](1.0), mpl.colormaps[ALARM_MAP](0.7)
    return [
        Patch(fc=found, label="median average precision 1 (models entirely right)"),
        Patch(fc=alarm, label="models with a false alarm, where no expert carries"),
        Patch(fill=False, ec=style.CHOICE, ls="--", label="related to how the plant was trained"),
    ]


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:  # noqa: ARG001 - as every figure
    """Save the figure and its table under `stem`."""
    rows = table(inputs)
    with style.applied():
        save(plot(rows), rows, stem)
