"""Figure: how the directions of refusal lie to each other, and to the rows of routers.

One matrix of cosines: the residual stream's directions entering each layer, what attention and MLP (or
MoE blocks) add, the experts with the longest directions, and those experts' rows in their routers. All at
the last prompt token.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from pandas import DataFrame

from steer.figures import style
from steer.figures.inputs import Inputs, Settings, read_table, records
from steer.figures.output import save

COLUMNS = ("first", "second", "cosine")
GROUPS = {
    "residual": "entering layer",
    "attention": "attention writes",
    "mlp": "MLP or MoE writes",
    "expert": "expert's direction",
    "router": "router's row",
}
CELL = 0.19
# From so many directions on, every second one is named.
MANY = 60


def table(inputs: Inputs) -> DataFrame:
    """A row per pair of directions: their cosine, empty where one of them is zero."""
    rows = read_table(inputs["cosines"][0], COLUMNS)
    return DataFrame(rows[list(COLUMNS)])


def _matrix(rows: DataFrame) -> tuple[Float[np.ndarray, "n n"], list[str]]:
    names = list(dict.fromkeys(rows["first"]))
    place = {name: index for index, name in enumerate(names)}
    values = np.full((len(names), len(names)), np.nan)
    for row in records(rows):
        one, other = place[row["first"]], place[row["second"]]
        values[one, other] = values[other, one] = row["cosine"]
    return values, names


def _labels(axes: Axes, names: list[str]) -> None:
    step = 1 if len(names) <= MANY else 2
    ticks = range(0, len(names), step)
    short = [names[index].split()[1] for index in ticks]
    axes.set_xticks(ticks, short, rotation=90, size=6)
    axes.set_yticks(ticks, short, size=6)
    axes.tick_params(length=1.5)


def _groups(axes: Axes, names: list[str]) -> None:
    """A line between the kinds of directions, and a heading at each."""
    kinds = [name.split()[0] for name in names]
    for kind in dict.fromkeys(kinds):
        places = [index for index, other in enumerate(kinds) if other == kind]
        if places[0]:
            axes.axhline(places[0] - 0.5, color=style.INK, lw=0.8)
            axes.axvline(places[0] - 0.5, color=style.INK, lw=0.8)
        middle = (places[0] + places[-1]) / 2
        axes.annotate(
            GROUPS[kind],
            (1.0, middle),
            xytext=(5, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="left",
            va="center",
            size=8,
            color=style.FAINT,
            annotation_clip=False,
        )


def plot(rows: DataFrame, settings: Settings) -> Figure:
    """The matrix, kinds of directions apart."""
    values, names = _matrix(rows)
    side = max(4.0, CELL * len(names))
    figure = style.canvas(side + 3.2, side + 1.0)
    axes = figure.subplots()
    image = axes.imshow(values, norm=Normalize(-1, 1), cmap=style.SIGNED_MAP, interpolation="nearest")
    axes.set_facecolor("#eeeeee")
    _labels(axes, names)
    _groups(axes, names)
    for spine in axes.spines.values():
        spine.set_visible(True)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.04, label="cosine")
    bar.ax.tick_params(labelsize=8)
    style.headline(figure, f"{settings['model']}: cosines between directions, at the last prompt token")
    return figure


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`."""
    rows = table(inputs)
    with style.applied():
        save(plot(rows, settings), rows, stem)
