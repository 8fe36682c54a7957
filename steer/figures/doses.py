"""What figures of dose and response share: the second axis, and the legend of verdicts."""

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from pandas import DataFrame

from steer.figures import style

VERDICTS = ("refusal", "non_response", "full_response")


def norm_axis(axes: Axes, rows: DataFrame) -> None:
    """Below the coefficients, the length of what they add, |c|·‖v‖."""
    norm = float(rows["direction_norm"].iloc[0])
    style.scaled_axis(axes, -0.62, 0.0, norm, "|c|·‖v‖, in units of the residual stream")


def verdict_handles(level: float) -> list[Line2D]:
    """Legend entries of the verdicts' lines and of their intervals, of confidence `level`."""
    handles = []
    for name in VERDICTS:
        look = style.VERDICTS[name]
        colour = style.GREY if name == "non_response" else look.colour
        handles.append(Line2D([], [], ls=look.dash, marker=look.marker, ms=4, color=colour, label=look.label))
    band = Line2D([], [], lw=6, alpha=0.3, color=style.FAINT, label=f"{style.per_cent(level)} interval")
    return [*handles, band]
