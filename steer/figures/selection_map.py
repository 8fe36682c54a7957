"""Figure: the selection scores of every layer and token position, with the choice and what was left out."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from pandas import DataFrame

from steer.figures import style
from steer.figures.candidates import SCORES, USABLE, Score, table
from steer.figures.inputs import Inputs, Settings, records
from steer.figures.output import save

HATCHES = ("////", "xxx", "....", "\\\\\\\\", "++")
# Up to this many layers, panels stand side by side and every cell carries its number.
FEW_LAYERS = 12
# A range of more than a decade is shown on a log scale, above what rounding leaves of zero.
DECADE = 10.0
TINY = 1e-6


class Grid(NamedTuple):
    """One score as a matrix, NaN where a candidate has none."""

    values: Float[np.ndarray, "position layer"]
    layers: list[int]
    positions: list[int]


def _grid(rows: DataFrame) -> Grid:
    layers, positions = sorted(set(rows["layer"])), sorted(set(rows["position"]))
    values = np.full((len(positions), len(layers)), np.nan)
    for row in records(rows):
        values[positions.index(row["position"]), layers.index(row["layer"])] = row["value"]
    return Grid(values, layers, positions)


def _scale(values: Float[np.ndarray, "position layer"], score: Score) -> tuple[Normalize, str, str]:
    """How values become colours (around 0, by magnitude or evenly), and the label of the colour bar."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if score.signed:
        reach = max(abs(low), abs(high)) or 1.0
        return TwoSlopeNorm(0.0, -reach, reach), style.SIGNED_MAP, score.unit
    if high > DECADE * max(low, TINY):
        norm = LogNorm(max(low, TINY), high, clip=True)
        return norm, style.MAGNITUDE_MAP, f"{score.unit}, log scale"
    return Normalize(low, high), style.MAGNITUDE_MAP, score.unit


def _panel(figure: Figure, axes: Axes, rows: DataFrame, score: Score, hatches: dict[str, str]) -> None:
    grid = _grid(rows)
    norm, colours, label = _scale(grid.values, score)
    image = axes.imshow(grid.values, norm=norm, cmap=colours, aspect="auto", interpolation="nearest")
    axes.set_xticks(range(len(grid.layers)), [str(layer) for layer in grid.layers])
    axes.set_yticks(range(len(grid.positions)), [f"−{-position}" for position in grid.positions])
    axes.set_xlabel("layer")
    axes.set_ylabel("token position, from the end")
    axes.set_title(score.title, size=9)
    figure.colorbar(image, ax=axes, label=label, pad=0.02)
    if len(grid.layers) <= FEW_LAYERS:
        _numbers(axes, grid.values, norm, image.get_cmap(), score.digits)
    _marks(axes, rows, grid, hatches)


def _numbers(
    axes: Axes, values: Float[np.ndarray, "position layer"], norm: Normalize, cmap: Colormap, digits: int
) -> None:
    for row, column in np.argwhere(np.isfinite(values)):
        value = float(values[row, column])
        cell = cmap(float(norm(value)))
        # A patch in the cell's own colour keeps the number legible over a hatch.
        patch = {"facecolor": cell, "edgecolor": "none", "pad": 1.0}
        text = f"{value:.{digits}g}".replace("-", "−")
        ink = style.ink_on(cell)
        axes.text(column, row, text, ha="center", va="center", size=7, color=ink, bbox=patch)


def _marks(axes: Axes, rows: DataFrame, grid: Grid, hatches: dict[str, str]) -> None:
    for entry in records(rows):
        row, column = grid.positions.index(entry["position"]), grid.layers.index(entry["layer"])
        corner = (column - 0.5, row - 0.5)
        if entry["chosen"]:
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, ec=style.CHOICE, lw=2.6, zorder=3))
        if entry["arms"]:
            axes.add_line(_diamond([column + 0.38], [row + 0.3]))
        if entry["status"] not in USABLE:
            hatch = hatches[entry["status"]]
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, ec="#00000088", hatch=hatch, lw=0))


def _diamond(x: list[float], y: list[float], label: str = "") -> Line2D:
    return Line2D(
        x, y, marker="D", ls="", ms=4.5, mfc="white", mec=style.CHOICE, mew=1.4, zorder=4, label=label
    )


def _legend(rows: DataFrame, hatches: dict[str, str]) -> list[Artist]:
    handles: list[Artist] = [
        Patch(fill=False, ec=style.CHOICE, lw=2.6, label="best by this method"),
        _diamond([], [], "used by an arm after judged trials"),
    ]
    for status, hatch in hatches.items():
        left_out = rows[rows["status"] == status].drop_duplicates(["method", "layer", "position"])
        counts = left_out.groupby("method").size()
        note = ", ".join(f"{method} {count}" for method, count in counts.items())
        label = f"left out: {status} ({note})"
        handles.append(Patch(fill=False, ec=style.INK, hatch=hatch, lw=0.5, label=label))
    return handles


def plot(rows: DataFrame, settings: Settings) -> Figure:
    """A map per score: layers from left to right, token positions from top to bottom."""
    statuses = sorted(set(rows["status"]) - set(USABLE))
    hatches = {status: HATCHES[place % len(HATCHES)] for place, status in enumerate(statuses)}
    layers = rows["layer"].nunique()
    positions = rows["position"].nunique()
    shape = (2, 2) if layers <= FEW_LAYERS else (len(SCORES), 1)
    width = 2 * (2.2 + 0.55 * layers) if shape == (2, 2) else 2.5 + 0.24 * layers
    figure = style.canvas(max(width, 8.0), 1.0 + shape[0] * (1.0 + 0.32 * positions))
    panels = figure.subplots(*shape, squeeze=False).ravel()
    for axes, score in zip(panels, SCORES, strict=True):
        mine = (rows["method"] == score.method) & (rows["score"] == score.column)
        _panel(figure, axes, rows[mine], score, hatches)
    style.headline(figure, f"{settings['model']}: where the refusal direction was chosen, on “val”")
    style.legend_below(figure, _legend(rows, hatches))
    return figure


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`."""
    rows = table(inputs, settings)
    with style.applied():
        save(plot(rows, settings), rows, stem)
