"""Fonts, sizes and colours of every figure, once.

The colours are those of Okabe and Ito (2008, "Color Universal Design"), chosen among each other so
that every pair that one legend asks to tell apart differs under protanopia, deuteranopia and
tritanopia too (`tests/unit/test_figures_style.py` simulates them); verdicts and components also
differ by hatch or marker.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, Locator, LogLocator, NullLocator, PercentFormatter

# Text is drawn as outlines: a picture inside the report can't bring a font of its own. The salt
# makes the ids inside an SVG the same in every run.
RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "figure.titlesize": 11.5,
    "figure.titleweight": "bold",
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "steer",
}
PNG_DPI = 150
INK = "#222222"
FAINT = "#666666"
GREY = "#888888"  # lines of what areas show in light grey
CHOICE = "#B0307A"  # marks what was chosen


@dataclass(frozen=True)
class Look:
    """How one kind of thing is drawn in every figure."""

    label: str
    colour: str
    hatch: str = ""
    marker: str = "o"
    dash: str = "-"


VERDICTS = {
    "refusal": Look("refusal", "#0072B2", marker="o"),
    "non_response": Look("broken or off topic (non_response)", "#BBBBBB", "////", marker="^", dash=":"),
    "full_response": Look("answers the request (full_response)", "#E69F00", marker="s", dash="--"),
}
ANSWERS = {
    "from_document": Look("from the document", "#0072B2", marker="o"),
    "abstained": Look("abstains", "#56B4E9", "....", marker="D", dash="-."),
    "other": Look("neither (other)", "#BBBBBB", "////", marker="^", dash=":"),
    "from_memory": Look("from memory", "#E69F00", marker="s", dash="--"),
}
OF_VERDICTS = VERDICTS | ANSWERS
LABELS = {
    "harmful": Look("harmful", "#D55E00", marker="o"),
    "harmless": Look("harmless", "#56B4E9", marker="s"),
}
COMPONENTS = {
    "embedding": Look("token embedding", "#000000"),
    "attention": Look("attention", "#009E73"),
    "mlp": Look("MLP or MoE block", "#F0E442", "...."),
}
SIGNED_MAP = "PuOr"
MAGNITUDE_MAP = "cividis"


@contextmanager
def applied() -> Iterator[None]:
    """Draw and save inside this: matplotlib's settings are ours here, and the user's elsewhere."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        yield


def canvas(width: float, height: float) -> Figure:
    """An empty figure, in inches, whose parts are laid out without overlap."""
    return Figure(figsize=(width, height), layout="constrained")


def headline(figure: Figure, text: str) -> None:
    """What the figure shows, over all panels, from the left edge on."""
    figure.suptitle(text, x=0.01, ha="left")


def scaled_axis(
    axes: Axes, at: Literal["top", "bottom"] | float, origin: float, unit: float, label: str
) -> None:
    """A second x-axis that reads `origin + unit * x`, at a side or at a height below the first."""

    def forward(x: Any) -> Any:
        return origin + unit * x

    def backward(scaled: Any) -> Any:
        return (scaled - origin) / unit

    second = axes.secondary_xaxis(at, functions=(forward, backward))
    if axes.get_xscale() == "log":
        plain_ticks(second.xaxis, LogLocator(subs=(1.0, 2.0, 5.0)))
    second.set_xlabel(label, size=8)
    second.tick_params(labelsize=8)


def doubling_axis(axes: Axes) -> None:
    """Make the x-axis logarithmic, with a tick at each power of two."""
    axes.set_xscale("log", base=2)
    plain_ticks(axes.xaxis, LogLocator(base=2))


def plain_ticks(axis: Axis, locator: Locator) -> None:
    """Ticks with plain numbers, and none between them."""
    axis.set_major_locator(locator)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:g}")


def share_axis(axes: Axes, which: str = "y") -> None:
    """Make an axis run from 0 to 100 per cent, with a light grid; its label must name the unit."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    (axes.set_ylim if which == "y" else axes.set_xlim)(0.0, 1.0)
    axis.set_major_locator(FixedLocator([0.0, 0.25, 0.5, 0.75, 1.0]))
    axis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0, symbol=""))
    axis.grid(visible=True)


def per_cent_number(share: float) -> str:
    """A share in per cent, without the sign; what is not all and not nothing is not printed as if it were."""
    rounded = f"{100 * share:.0f}"
    return f"{100 * share:.1f}" if rounded in ("0", "-0", "100") and share not in (0, 1) else rounded


def per_cent(share: float) -> str:
    """A share as it is printed into a figure."""
    return f"{per_cent_number(share)} %"


def ink_on(colour: tuple[float, float, float, float]) -> str:
    """A text colour that can be read on `colour` (red, green, blue, alpha in [0, 1])."""
    red, green, blue, _ = colour
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else INK


def verdict_patches(verdicts: Iterable[str] = VERDICTS) -> list[Patch]:
    """Legend entries of verdicts, as areas."""
    return [
        Patch(facecolor=look.colour, hatch=look.hatch, edgecolor="white", linewidth=0, label=look.label)
        for look in (OF_VERDICTS[verdict] for verdict in verdicts)
    ]


def interval_handle(label: str) -> ErrorbarContainer:
    """Legend entry of a whisker."""
    lines = Line2D([], [], color=INK), (), (LineCollection([], colors=[INK]),)
    return ErrorbarContainer(lines, has_xerr=True, label=label)


def marker_handles(looks: Iterable[Look]) -> list[Line2D]:
    """Legend entries of points, one for each look."""
    return [Line2D([], [], ls="", marker=look.marker, color=look.colour, label=look.label) for look in looks]


def legend_below(figure: Figure, handles: Sequence[Artist | ErrorbarContainer]) -> None:
    """One legend for all panels, under them, in as many columns as the figure has room for."""
    for columns in range(len(handles), 0, -1):
        legend = figure.legend(handles=list(handles), loc="outside lower center", ncols=columns)
        if columns == 1 or legend.get_window_extent().width < figure.bbox.width:
            return
        legend.remove()
