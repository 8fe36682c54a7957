"""Figure: how many prompts of each split say the same as a test prompt of another set."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from pandas import DataFrame

from steer.figures import style
from steer.figures.inputs import Inputs, Settings, read_table, records
from steer.figures.output import save

COLUMNS = ("set", "split", "prompts", "other", "other_prompts", "exact", "near", "left_out")


def table(inputs: Inputs) -> DataFrame:
    """A row per set, split and other set, with the `share` of prompts that say the same.

    Raises:
        SteerError: the table is missing or empty.
    """
    rows = read_table(inputs["overlap"][0], COLUMNS)[list(COLUMNS)]
    return rows.assign(share=(rows["exact"] + rows["near"]) / rows["prompts"])


def plot(rows: DataFrame, settings: Settings) -> Figure:
    """A map: a row per split of a set, a column per set whose test prompts it is held against."""
    splits = list(dict.fromkeys(zip(rows["set"], rows["split"], strict=True)))
    others = list(dict.fromkeys(rows["other"]))
    shares = np.full((len(splits), len(others)), np.nan)
    figure = style.canvas(2.6 + 0.95 * len(others), 1.7 + 0.27 * len(splits))
    axes = figure.subplots()
    colours = colormaps[style.MAGNITUDE_MAP]
    for row in records(rows):
        at = splits.index((row["set"], row["split"])), others.index(row["other"])
        shares[at] = row["share"]
        said = f"{row['exact']:.0f} + {row['near']:.0f}" if row["share"] else "0"
        ink = style.ink_on(colours(float(row["share"])))
        axes.text(at[1], at[0], said, ha="center", va="center", size=7.5, color=ink)
    drawn = axes.imshow(shares, cmap=colours, vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(others)), others, rotation=30, ha="right")
    axes.set_yticks(range(len(splits)), [f"{name}, {split}" for name, split in splits])
    axes.tick_params(length=0)
    axes.set_xlabel("test prompts of")
    figure.colorbar(drawn, ax=axes, label="share of the row's prompts")
    same = settings["overlap"]["threshold"]
    style.headline(figure, f"Prompts that say the same: exact + near (similarity of at least {same:g})")
    return figure


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`."""
    rows = table(inputs)
    with style.applied():
        save(plot(rows, settings), rows, stem)
