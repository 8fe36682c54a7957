"""Seen and unseen categories: which rows are drawn, and where their marks stand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import same_color
from matplotlib.lines import Line2D
from pandas import DataFrame

from steer.artifacts.files import write_csv
from steer.errors import SteerError
from steer.figures import held_out, registry, style
from steer.figures.inputs import Settings
from tests.figure_inputs.scores import CATEGORIES, category_rows
from tests.figure_inputs.study import ARMS, MODEL, config


def settings(**changes: object) -> Settings:
    return registry.settings_of("held_out", config(**changes), MODEL)


def table(folder: Path, rows: list[dict[str, Any]]) -> DataFrame:
    write_csv(folder / "categories.csv", rows, list(rows[0]))
    return held_out.table({"categories": [folder / "categories.csv"]}, settings())


@pytest.fixture
def rows(tmp_path: Path) -> DataFrame:
    return table(tmp_path, category_rows())


def marks(axes: Axes, *, filled: bool) -> list[tuple[float, float]]:
    """Places of the points of one kind, without the caps of their whiskers."""
    return [
        (float(x), float(y))
        for line in axes.lines
        if isinstance(line, Line2D) and line.get_marker() in ("o", "s") and len(line.get_xdata()) > 0
        if same_color(line.get_markerfacecolor(), "white") != filled
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    ]


def test_the_table_holds_all_seen_and_all_unseen_of_each_arm_and_the_public_set_by_category(
    rows: DataFrame,
) -> None:
    whole = rows[rows["category"] == "*"]
    assert set(whole["set"]) == {"harmful", "harmless"}
    assert len(whole) == 2 * 2 * len(ARMS)
    public = rows[rows["category"] != "*"]
    assert set(public["set"]) == {"advbench"}
    assert set(public["category"]) == {category for category, _, _ in CATEGORIES["advbench"]}
    assert not public["seen"].any()


def test_the_arms_shown_by_category_are_those_that_did_best_on_seen_ones_and_no_control(
    tmp_path: Path, rows: DataFrame
) -> None:
    public = rows[rows["category"] != "*"]
    assert list(dict.fromkeys(public["arm"])) == ["baseline", "add-induce", "ablate", "add-suppress"]
    # What an arm does on unseen categories has no say in it.
    changed = category_rows()
    for row in changed:
        if row["arm"] == "add-suppress" and not row["seen"]:
            row["full_response_rate"] = 0.0
    assert set(table(tmp_path, changed)["arm"]) == set(rows["arm"])


def test_seen_categories_are_filled_above_and_unseen_ones_hollow_below(rows: DataFrame) -> None:
    with style.applied():
        figure = held_out.plot(rows, settings())
    wanted = [(name, verdict) for name in ("harmful", "harmless") for verdict in ("refusal", "full_response")]
    for axes, (name, verdict) in zip(figure.axes, wanted, strict=False):
        mine = rows[(rows["set"] == name) & (rows["category"] == "*")]
        seen, unseen = marks(axes, filled=True), marks(axes, filled=False)
        for points, part in ((seen, mine[mine["seen"]]), (unseen, mine[~mine["seen"]])):
            assert [x for x, _ in points] == pytest.approx(list(part[f"{verdict}_rate"]))
        gaps = np.array([y for _, y in seen]) - np.array([y for _, y in unseen])
        assert gaps == pytest.approx(2 * held_out.SHIFT)


def test_the_public_set_has_a_panel_per_arm_and_a_row_per_category_with_its_size(rows: DataFrame) -> None:
    with style.applied():
        figure = held_out.plot(rows, settings())
    panels = figure.axes[4:]
    assert [axes.get_title(loc="left") for axes in panels] == [
        "baseline",
        "add-induce",
        "ablate",
        "add-suppress",
    ]
    names = [text.get_text() for text in panels[0].get_yticklabels()]
    assert names == ["Physical (n = 51)", "Human Rights and Civil Liberties (n = 15)"]
    assert all(len(marks(axes, filled=False)) == 4 and not marks(axes, filled=True) for axes in panels)


@pytest.mark.parametrize("lost", ["unseen", "public", "compared"])
def test_what_there_is_nothing_of_is_left_out(lost: str, tmp_path: Path) -> None:
    kept = {
        "unseen": lambda row: row["seen"] or row["set"] == "advbench",
        "public": lambda row: row["set"] != "advbench",
        "compared": lambda row: row["set"] == "advbench",
    }[lost]
    found = table(tmp_path, [row for row in category_rows() if kept(row)])
    if lost == "compared":
        # Nothing says which arms are best: the first of each group are shown.
        assert list(dict.fromkeys(found["arm"])) == ["baseline", "add-induce", "ablate", "add-suppress"]
    held_out.draw({"categories": [tmp_path / "categories.csv"]}, settings(), tmp_path / "held_out")
    assert (tmp_path / "held_out.png").stat().st_size > 1000


def test_sets_without_any_category_of_harm_are_an_error_that_says_so(tmp_path: Path) -> None:
    everyday = [row for row in category_rows() if row["set"] == "everyday"]
    with pytest.raises(SteerError, match="no harmful prompt has a category"):
        table(tmp_path, everyday)


def test_the_figure_is_drawn_where_categories_are_held_out() -> None:
    assert "held_out" in registry.figures_of(config())
    assert "held_out" not in registry.figures_of(config(grammar={"held_out": 0}))
