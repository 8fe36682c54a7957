"""Figure: what the making of refusal pairs does to the ranking of experts."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from steer.figures import style
from steer.figures.inputs import Inputs, Settings, read_table, records
from steer.figures.output import save

COLUMNS = (
    *("refusals", "tokens", "pairs", "tokens_1", "tokens_2"),
    *("rank_correlation", "shared_top", "top", "best", "best_difference"),
)
REFUSALS = {"fixed": "fixed refusals", "own": "the model's own"}
TOKENS = {"all": "all tokens", "equal": "equally many"}


def _bars(axes: Axes, rows: DataFrame, column: str, label: str) -> None:
    heights = range(len(rows))
    axes.barh(heights, rows[column].fillna(0.0), 0.6, color=style.LABELS["harmless"].colour)
    for height, row in zip(heights, records(rows), strict=True):
        number = row[column]
        said = f"{number:.2f}" if number == number else "no pairs"
        axes.text(0.02, height, said, va="center", size=8, color=style.INK)
    axes.set_xlim(min(0.0, rows[column].min()), 1.0)
    axes.set_xlabel(label)
    axes.grid(visible=True, axis="x")


def plot(rows: DataFrame, settings: Settings) -> Figure:
    """Two panels: rank correlation with the first way of making pairs, and leading experts in common."""
    figure = style.canvas(8.2, 1.5 + 0.42 * len(rows))
    left, right = figure.subplots(1, 2, sharey=True)
    _bars(left, rows, "rank_correlation", "Spearman's ρ with the first row")
    _bars(right, rows, "shared_top", f"of the {rows['top'].iloc[0]} leading experts in common")
    names = [
        f"{REFUSALS[row['refusals']]}, {TOKENS[row['tokens']]}\n"
        f"{row['tokens_1']} and {row['tokens_2']} tokens"
        for row in records(rows)
    ]
    left.set_yticks(range(len(rows)), names)
    left.invert_yaxis()
    pairs, name = rows["pairs"].max(), settings["pairing"]["contrast"]
    style.headline(figure, f"{settings['model']}: contrast “{name}” of {pairs} pairs, made in four ways")
    return figure


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`."""
    rows = read_table(inputs["pairing"][0], COLUMNS)
    with style.applied():
        save(plot(rows, settings), rows, stem)
