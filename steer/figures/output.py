"""Saving a figure with the table that it draws, whole and byte for byte the same each time."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from pandas import DataFrame

from steer.artifacts.files import atomic_path, write_csv
from steer.figures.inputs import records
from steer.figures.style import PNG_DPI, applied

PLACES = 6  # digits of a position, as a share of the figure


def save_table(table: DataFrame, stem: Path) -> None:
    """Write `<stem>.csv`."""
    write_csv(stem.with_suffix(".csv"), records(table), [str(column) for column in table.columns])


def _settle(figure: Figure) -> None:
    """Lay the figure out, and round where its panels came to stand.

    The solver of the layout leaves last bits that differ between runs; they would end up in the ids
    inside an SVG. It runs twice, since the first time it does not know yet how wide the ticks will be.
    """
    figure.draw_without_rendering()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        corners = axes.get_position(original=True).get_points()
        axes.set_position(Bbox(corners.round(PLACES)))


def save(figure: Figure, table: DataFrame, stem: Path) -> None:
    """Write `<stem>.svg`, `<stem>.png` and `<stem>.csv`.

    The files carry no date, so the same table gives the same bytes.
    """
    save_table(table, stem)
    with applied():
        _settle(figure)
        with atomic_path(stem.with_suffix(".svg")) as partial:
            figure.savefig(partial, format="svg", metadata={"Date": None, "Title": stem.name})
        with atomic_path(stem.with_suffix(".png")) as partial:
            figure.savefig(partial, format="png", dpi=PNG_DPI, metadata={"Title": stem.name})
