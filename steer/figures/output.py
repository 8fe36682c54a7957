"""Saving a figure with the table that it draws, whole and byte for byte the same each time."""

from pathlib import Path

from matplotlib.figure import Figure
from pandas import DataFrame

from steer.artifacts.files import atomic_path, write_csv
from steer.figures.inputs import records
from steer.figures.style import PNG_DPI, applied


def save_table(table: DataFrame, stem: Path) -> None:
    """Write `<stem>.csv`."""
    write_csv(stem.with_suffix(".csv"), records(table), [str(column) for column in table.columns])


def save(figure: Figure, table: DataFrame, stem: Path) -> None:
    """Write `<stem>.svg`, `<stem>.png` and `<stem>.csv`.

    The files carry no date, so the same table gives the same bytes.
    """
    save_table(table, stem)
    with applied():
        with atomic_path(stem.with_suffix(".svg")) as partial:
            figure.savefig(partial, format="svg", metadata={"Date": None, "Title": stem.name})
        with atomic_path(stem.with_suffix(".png")) as partial:
            figure.savefig(partial, format="png", dpi=PNG_DPI, metadata={"Title": stem.name})
