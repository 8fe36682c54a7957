"""Figure: where prompts lie along the refusal direction, harmful and harmless, seen and held out.

The scale is 0 at the mean of the harmless training prompts and 1 at the mean of the harmful ones:
(<h, r> - <mean harmless, r>) / |r|^2, with r the chosen direction and h the residual at its place.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame

from steer.artifacts.activations import ActivationFile
from steer.artifacts.files import Row
from steer.figures import style
from steer.figures.direction import Direction, chosen_direction
from steer.figures.inputs import Inputs, Settings, records
from steer.figures.output import save

MIDDLE = 0.5
SPLITS = ("train", "val", "test")
ROW_HEIGHT = 0.5


def table(paths: list[Path], direction: Direction) -> DataFrame:
    """A row per prompt: set, label, split, `projection` (residual units) and `scaled` (0 to 1, see above).

    Raises:
        SteerError: a file is missing, unfinished, damaged or of another model.
    """
    return pd.concat([_projected(path, direction) for path in paths], ignore_index=True)


def _projected(path: Path, direction: Direction) -> DataFrame:
    unit = direction.vector / direction.norm
    with ActivationFile(path, model=direction.model) as file:
        # One place of a block is all that stays in memory.
        blocks = (block[:, direction.layer, direction.position] for block in file.blocks("residual"))
        values = np.concatenate([block.astype(np.float64) @ unit for block in blocks])
        rows = DataFrame(
            {
                "set": path.stem,
                "label": file.labels,
                "split": file.splits,
                "prompt_id": file.prompt_ids,
                "projection": values,
            }
        )
    return rows.assign(scaled=(values - direction.harmless_mean @ unit) / direction.norm)


def summary(rows: DataFrame, contrast: list[str]) -> DataFrame:
    """A row per set and split: n, quartiles of the scaled projection, share on the refusal side of 0.5.

    The sets of the contrast come first, split by split; then those from elsewhere.
    """
    groups = rows.groupby(["set", "label", "split"])["scaled"]
    parts = groups.quantile(np.array([0.25, 0.5, 0.75])).unstack()
    parts.columns = pd.Index(["low", "middle", "high"])
    parts["n"] = groups.size()
    parts["beyond"] = groups.apply(lambda scaled: float((scaled > MIDDLE).mean()))
    parts = parts.reset_index()
    outside = ~parts["set"].isin(contrast)
    order = parts.assign(
        outside=outside,
        split_rank=parts["split"].map(SPLITS.index),
        name_rank=[contrast.index(name) if name in contrast else len(contrast) for name in parts["set"]],
        harmless=parts["label"] == "harmless",
    ).sort_values(["outside", "split_rank", "name_rank", "harmless", "set"])
    return parts.loc[order.index].reset_index(drop=True)


def _strip(axes: Axes, scaled: np.ndarray, height: float, part: Row) -> None:
    look = style.LABELS[part["label"]]
    jitter = np.random.default_rng(0).uniform(-0.28, 0.28, len(scaled))
    axes.scatter(scaled, height + jitter, s=7, marker=look.marker, color=look.colour, alpha=0.45, lw=0)
    axes.plot([part["low"], part["high"]], [height, height], color=style.INK, lw=3.2, solid_capstyle="butt")
    axes.plot([part["middle"]], [height], "|", ms=13, mew=2.2, color=style.INK)
    note = f"{style.per_cent(part['beyond'])}  (n = {part['n']})"
    axes.annotate(
        note, (1.02, height), xycoords=("axes fraction", "data"), va="center", size=8.5, annotation_clip=False
    )


def plot(rows: DataFrame, direction: Direction, settings: Settings) -> Figure:
    """A strip of points per set and split, with median and quartiles."""
    contrast = settings["contrast"]
    parts = summary(rows, [contrast["harmful"], contrast["harmless"]])
    figure = style.canvas(9.5, 1.9 + ROW_HEIGHT * len(parts))
    axes = figure.subplots()
    heights = [-float(place) for place in range(len(parts))]
    for height, part in zip(heights, records(parts), strict=True):
        mine = rows[(rows["set"] == part["set"]) & (rows["split"] == part["split"])]
        _strip(axes, mine["scaled"].to_numpy(), height, part)
    axes.axvline(MIDDLE, color=style.FAINT, ls=":", lw=1.2, zorder=0)
    axes.set_yticks(heights, [f"{part.set}, {part.split}" for part in parts.itertuples()])
    axes.set_ylim(heights[-1] - 0.6, 0.6)
    axes.annotate("past ½", (1.02, 1.0), xycoords="axes fraction", va="bottom", size=8.5, weight="bold")
    _label_axes(axes, direction)
    style.headline(figure, f"{settings['model']}: prompts along the refusal direction")
    style.legend_below(figure, _handles())
    return figure


def _label_axes(axes: Axes, direction: Direction) -> None:
    origin = float(direction.harmless_mean @ direction.vector) / direction.norm
    place = f"layer {direction.layer}, position −{-direction.position}"
    label = f"projection on the unit direction, residual units ({place})"
    style.scaled_axis(axes, "top", origin, direction.norm, label)
    axes.set_xlabel("along the direction: 0 = mean of harmless, 1 = mean of harmful training prompts")
    axes.xaxis.grid(visible=True)


def _handles() -> list[Line2D]:
    points = [
        Line2D([], [], ls="", marker=look.marker, color=look.colour, label=f"a {look.label} prompt")
        for look in style.LABELS.values()
    ]
    return [
        *points,
        Line2D([], [], marker="|", ms=11, mew=2, lw=3.2, color=style.INK, label="median and middle half"),
        Line2D([], [], ls=":", color=style.FAINT, label="½: half-way between the means"),
    ]


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`.

    Raises:
        SteerError: an input is missing, incomplete or damaged.
    """
    direction = chosen_direction(inputs["directions"][0], inputs["arditi_choice"][0])
    rows = table(list(inputs["activations"]), direction)
    with style.applied():
        save(plot(rows, direction, settings), rows, stem)
