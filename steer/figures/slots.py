"""Where rows of arms stand under the headings of their groups, the same in every figure."""

from matplotlib.axes import Axes
from pandas import DataFrame

from steer.figures import style


def slots(rows: DataFrame) -> tuple[dict[str, float], dict[str, float]]:
    """Heights of the arms and of the headings over their groups, from 0 downwards."""
    arms: dict[str, float] = {}
    headings: dict[str, float] = {}
    height = 0.0
    for row in rows.drop_duplicates("arm").itertuples():
        if row.group not in headings:
            headings[str(row.group)] = height - 0.25
            height -= 1.0
        arms[str(row.arm)] = height
        height -= 1.0
    return arms, headings


def name_slots(axes: Axes, names: dict[str, float], headings: dict[str, float]) -> None:
    """Write the names of the rows and the headings of their groups beside the y-axis."""
    axes.set_yticks(list(names.values()), list(names))
    axes.set_ylim(min(names.values()) - 0.6, 0.3)
    for heading, height in headings.items():
        axes.annotate(
            heading,
            (0, height),
            xytext=(-4, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            va="center",
            weight="bold",
            color=style.FAINT,
            annotation_clip=False,
        )
