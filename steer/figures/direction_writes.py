"""Figure: the exact share of the refusal direction that each layer's attention and MLP write.

The residual stream is a sum, and a difference of means is linear, so the direction r read at layer l
is the sum of what the embedding and every attention and MLP below l write into it:
share = <write, r> / |r|^2, and the shares add up to 1 (design of the decomposition: README).
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from pandas import DataFrame

from steer.errors import SteerError
from steer.figures import style
from steer.figures.direction import Direction, chosen_direction
from steer.figures.inputs import Inputs, Settings
from steer.figures.output import save

# How far the shares may sum from 1: each type rounds the writes, and the sum in the residual, once.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
BAR = 0.38


def table(direction: Direction) -> DataFrame:
    """A row per write in the order of the forward pass: layer (-1: embedding), component, share, norm."""
    rows = [_row(-1, "embedding", direction.embedding, direction)]
    for layer in range(direction.layer):
        rows.append(_row(layer, "attention", direction.attention[layer], direction))
        rows.append(_row(layer, "mlp", direction.mlp[layer], direction))
    shares = DataFrame(rows)
    shares["cumulative"] = shares["share"].cumsum()
    return shares.assign(direction_layer=direction.layer, direction_position=direction.position)


def _row(layer: int, component: str, write: np.ndarray, direction: Direction) -> dict[str, object]:
    share = float(write @ direction.vector) / direction.norm**2
    return {"layer": layer, "component": component, "share": share, "norm": float(np.linalg.norm(write))}


def residue(rows: DataFrame) -> float:
    """What the shares leave of 1."""
    return 1.0 - float(rows["share"].sum())


def check(rows: DataFrame, tolerance: float, path: Path) -> None:
    """Refuse to draw shares that don't add up.

    Raises:
        SteerError: they sum to a number further than `tolerance` from 1.
    """
    left = residue(rows)
    if abs(left) > tolerance:
        cause = (
            f"the writes of attention and MLP leave {left:.2g} of the direction unexplained (> {tolerance:g})"
        )
        raise SteerError(
            str(path), cause, "dump the activations again; if it stays, report the model's family"
        )


def _bars(axes: Axes, rows: DataFrame) -> None:
    for component, shift in (("embedding", 0.0), ("attention", -BAR / 2), ("mlp", BAR / 2)):
        look = style.COMPONENTS[component]
        mine = rows[rows["component"] == component]
        bars = axes.bar(
            mine["layer"] + shift,
            mine["share"],
            BAR,
            color=look.colour,
            hatch=look.hatch,
            edgecolor=style.INK,
            lw=0.6,
        )
        if len(rows) <= 2 * 12:
            labels = [style.per_cent(share).replace("-", "−") for share in mine["share"]]
            axes.bar_label(bars, labels, size=7, padding=2)


def _running_sum(axes: Axes, rows: DataFrame) -> None:
    sums = rows.groupby("layer")["cumulative"].last()
    x = np.append(sums.index.to_numpy() - 0.5, sums.index[-1] + 0.5)
    axes.stairs(sums.to_numpy(), x, baseline=None, color=style.FAINT, ls="--", lw=1.1)


def plot(rows: DataFrame, settings: Settings) -> Figure:
    """Two bars per layer, with the running sum as steps."""
    layers = sorted(set(rows["layer"]))
    figure = style.canvas(max(7.5, 1.5 + 0.5 * len(layers)), 4.0)
    axes = figure.subplots()
    axes.axhline(0, color=style.INK, lw=0.8)
    _bars(axes, rows)
    _running_sum(axes, rows)
    axes.set_xticks(layers, ["embed-\nding" if layer < 0 else str(layer) for layer in layers])
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f}".replace("-", "−"))
    axes.yaxis.grid(visible=True)
    axes.margins(y=0.12)
    axes.set_xlabel("layer that writes")
    axes.set_ylabel("share of the refusal direction (%)")
    first = rows.iloc[0]
    place = f"layer {first['direction_layer']}, position −{-first['direction_position']}"
    left = f"{residue(rows):.0e}".replace("-", "−")
    axes.set_title(
        f"direction read entering {place}; shares sum to 1 with a residue of {left}", weight="normal"
    )
    style.headline(figure, f"{settings['model']}: what writes the refusal direction")
    style.legend_below(figure, _handles())
    return figure


def _handles() -> list[Patch]:
    handles = [
        Patch(fc=look.colour, hatch=look.hatch, ec=style.INK, lw=0.6, label=look.label)
        for look in style.COMPONENTS.values()
    ]
    return [*handles, Patch(fill=False, ec=style.FAINT, ls="--", label="sum up to and with this layer")]


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`.

    Raises:
        SteerError: an input is missing, or the shares don't add up to 1.
    """
    direction = chosen_direction(inputs["directions"][0], inputs["arditi_choice"][0])
    rows = table(direction)
    types = (settings["models.{model}.dtype"], settings["activations"]["dtype"])
    check(rows, max(TOLERANCES[name] for name in types), inputs["directions"][0])
    with style.applied():
        save(plot(rows, settings), rows, stem)
