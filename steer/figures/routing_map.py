"""Figure: how differently the two sides of a contrast are routed, expert by expert.

A map per contrast, layers from top to bottom and experts from left to right. Colour is the risk
difference; a dot marks experts whose difference is significant after Benjamini-Hochberg, a ring those
that are stable over resampled prompts as well.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame, concat

from steer.figures import style
from steer.figures.inputs import Inputs, Settings, read_table, records
from steer.figures.output import save

COLUMNS = ("layer", "expert", "risk_difference", "ci_low", "ci_high", "q_value", "prompt_stability")
# Up to this many experts a cell has room for its number.
FEW_EXPERTS = 16
# So many maps of few experts stand beside each other.
ABREAST = 2
# Numbers smaller than this are left out of the cells: they are white anyway.
SHOWN = 0.05
SIGNIFICANT, STABLE = "significant", "significant and stable"


def table(inputs: Inputs, settings: Settings) -> DataFrame:
    """A row per contrast, layer and expert: risk difference, interval, q-value, stability and its mark."""
    routing = settings["routing"]
    parts = []
    for path in inputs["routing"]:
        rows = read_table(path, COLUMNS)[list(COLUMNS)]
        rows.insert(0, "contrast", path.stem)
        parts.append(rows)
    rows = concat(parts, ignore_index=True)
    rows["mark"] = [_mark(row, routing) for row in records(rows)]
    return rows


def _mark(row: dict[str, Any], routing: Settings) -> str:
    if not row["q_value"] <= routing["q_value"]:
        return ""
    return STABLE if row["prompt_stability"] >= routing["stability"] else SIGNIFICANT


def _grid(rows: DataFrame) -> tuple[Float[np.ndarray, "layer expert"], list[int]]:
    layers = sorted(set(rows["layer"]))
    values = np.full((len(layers), int(rows["expert"].max()) + 1), np.nan)
    for row in records(rows):
        values[layers.index(row["layer"]), row["expert"]] = row["risk_difference"]
    return values, layers


def _title(name: str, settings: Settings) -> str:
    contrast = settings["contrasts"].get(name)
    if contrast is None or contrast["first"] is None:
        return f"{name}: published by others"
    return f"{name}: {contrast['first']} against {contrast['second']}"


def _panel(figure: Figure, axes: Axes, rows: DataFrame, reach: float, title: str) -> None:
    values, layers = _grid(rows)
    norm = TwoSlopeNorm(0.0, -reach, reach)
    image = axes.imshow(values, norm=norm, cmap=style.SIGNED_MAP, aspect="auto", interpolation="nearest")
    axes.set_title(title, size=9.5)
    axes.set_xlabel("expert")
    axes.set_ylabel("layer")
    step = max(1, len(layers) // 16)
    axes.set_yticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
    figure.colorbar(image, ax=axes, pad=0.02, label="difference of selection rates")
    if values.shape[1] <= FEW_EXPERTS:
        axes.set_xticks(range(values.shape[1]))
        _numbers(axes, values, norm, image.get_cmap())
    for row in records(rows[rows["mark"] != ""]):
        x, y = float(row["expert"]), float(layers.index(row["layer"]))
        axes.add_line(_dot(row["mark"], [x], [y], values.shape[1]))


def _numbers(axes: Axes, values: Float[np.ndarray, "layer expert"], norm: TwoSlopeNorm, cmap: Any) -> None:
    for row, column in np.argwhere(np.abs(np.nan_to_num(values)) >= SHOWN):
        value = float(values[row, column])
        ink = style.ink_on(cmap(float(norm(value))))
        text = f"{value:+.2f}".replace("-", "−").replace("0.", ".")
        axes.text(column, row + 0.22, text, ha="center", va="center", size=6.5, color=ink)


def _dot(mark: str, x: Sequence[float], y: Sequence[float], experts: int = 1, label: str = "") -> Line2D:
    few = experts <= FEW_EXPERTS
    high = [place - 0.22 if few and not label else place for place in y]
    face = style.CHOICE if mark == STABLE else "white"
    size = 5.0 if few else 3.0
    return Line2D(x, high, marker="o", ls="", ms=size, mfc=face, mec=style.CHOICE, mew=1.1, label=label)


def _legend(settings: Settings) -> list[Artist]:
    routing = settings["routing"]
    significant = f"q ≤ {routing['q_value']:g}"
    stable = f"and among the top {routing['top']} in ≥ {style.per_cent(routing['stability'])} of resamples"
    return [
        _dot(SIGNIFICANT, [], [], label=significant),
        _dot(STABLE, [], [], label=f"{significant} {stable}"),
    ]


def plot(rows: DataFrame, settings: Settings) -> Figure:
    """A map per contrast, on one colour scale."""
    names = list(dict.fromkeys(rows["contrast"]))
    layers, experts = rows["layer"].nunique(), rows["expert"].nunique()
    few = experts <= FEW_EXPERTS
    columns = min(len(names), ABREAST) if few else 1
    shape = (-(-len(names) // columns), columns)
    width = (2.2 + 0.42 * experts) * columns if few else 3.0 + 0.06 * experts
    height = 1.2 + max(1.6, (0.42 if few else 0.1) * layers)
    figure = style.canvas(max(width, 7.5), 0.9 + height * shape[0])
    panels = figure.subplots(*shape, squeeze=False).ravel()
    reach = float(np.nanmax(np.abs(rows["risk_difference"]))) or 1.0
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(panels, names, strict=False):
        _panel(figure, axes, rows[rows["contrast"] == name], reach, _title(name, settings))
    style.headline(figure, f"{settings['model']}: which experts the router chooses more often on one side")
    style.legend_below(figure, _legend(settings))
    return figure


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`."""
    rows = table(inputs, settings)
    with style.applied():
        save(plot(rows, settings), rows, stem)
