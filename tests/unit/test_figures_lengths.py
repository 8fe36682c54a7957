"""Verdicts on cut replies: how many replies stand behind the marks of a length."""

from pandas import DataFrame

from steer.figures import style
from steer.figures.lengths import plot


def test_a_range_is_printed_where_judges_scored_different_numbers() -> None:
    scored = {("one", 20): 40, ("two", 20): 31, ("three", 20): 38, ("one", 80): 12, ("two", 80): 12}
    values = {"same": 0.5, "same_low": 0.25, "same_high": 0.75}
    rows = [{"judge": name, "length": at, "scored": n, **values} for (name, at), n in scored.items()]
    with style.applied():
        figure = plot(DataFrame(rows), {"model": "tiny", "scores.confidence": 0.95})
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["20\nn = 31–40", "80\nn = 12"]
