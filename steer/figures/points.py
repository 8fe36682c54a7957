"""Points with intervals in rows or columns, a look for each of several judges."""

from collections.abc import Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from pandas import DataFrame, Series

from steer.figures import style

# Of Okabe and Ito (2008), as the others; markers differ too.
LOOKS = (
    style.Look("", "#0072B2", marker="o"),
    style.Look("", "#D55E00", marker="s"),
    style.Look("", "#009E73", marker="^"),
    style.Look("", "#000000", marker="D"),
    style.Look("", "#E69F00", marker="v"),
    style.Look("", "#56B4E9", marker="P"),
)


def looks(names: Sequence[str]) -> dict[str, style.Look]:
    """A look for each name, in their order."""
    return {name: LOOKS[place % len(LOOKS)] for place, name in enumerate(names)}


def handles(found: dict[str, style.Look]) -> list[Line2D]:
    """Legend entries of the looks."""
    return [
        Line2D([], [], ls="", marker=look.marker, color=look.colour, label=name)
        for name, look in found.items()
    ]


def whiskers(
    axes: Axes,
    at: Sequence[float],
    found: DataFrame,
    columns: tuple[str, str, str],
    look: style.Look,
    *,
    along: Literal["x", "y"] = "y",
) -> None:
    """Points of the first of the columns, with an interval from the second to the third.

    An estimate without an interval is a point alone.
    """
    middle, low, high = (found[column] for column in columns)
    ends = [_reach(middle - low), _reach(high - middle)]
    error: Any = {f"{along}err": ends}
    x, y = (at, middle) if along == "y" else (middle, at)
    axes.errorbar(
        x,
        y,
        **error,
        fmt=look.marker,
        color=look.colour,
        ms=4.5,
        elinewidth=1.1,
        capsize=2.2,
    )


def _reach(length: Series) -> Series:
    return length.clip(lower=0).fillna(0.0)
