"""Verdicts by arm and set, and the summary: rows, order, and where bars and whiskers stand."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from pandas import DataFrame

from steer.artifacts.files import write_csv
from steer.errors import SteerError
from steer.figures import registry, style, summary, verdicts
from steer.figures.arms import ordered
from steer.figures.inputs import Settings
from steer.judges.behaviours import BEHAVIOURS
from tests.figure_inputs.scores import scores_rows
from tests.figure_inputs.study import ARMS, LABELS, MODEL, config


def scores(folder: Path) -> dict[str, list[Path]]:
    rows = scores_rows()
    write_csv(folder / "scores.csv", rows, list(rows[0]))
    return {"scores": [folder / "scores.csv"]}


def settings(**changes: object) -> Settings:
    return registry.settings_of("verdicts", config(**changes), MODEL)


@pytest.fixture
def rows(tmp_path: Path) -> DataFrame:
    return verdicts.table(scores(tmp_path), settings())


def test_there_is_a_row_for_each_arm_and_set_of_the_shown_judge(rows: DataFrame) -> None:
    assert len(rows) == len(ARMS) * len(LABELS)
    assert rows[["refusal_rate", "non_response_rate", "full_response_rate"]].sum(axis=1).to_numpy() == (
        pytest.approx(1)
    )


def test_strengthening_comes_before_weakening_and_controls_come_last(rows: DataFrame) -> None:
    assert list(dict.fromkeys(rows["arm"])) == [
        *("baseline", "add-induce", "induce-random", "ablate", "add-suppress"),
        *("add-random", "add-routing", "add-edits"),
    ]
    assert list(dict.fromkeys(rows["group"])) == ["unsteered", "refusal strengthened", "refusal weakened"]


def test_a_study_of_faithfulness_does_not_speak_of_refusal(tmp_path: Path) -> None:
    names = BEHAVIOURS["faithfulness"].verdicts
    told = [
        {key: value for key, value in row.items() if "_rate" not in key and "_low" not in key}
        | {f"{name}_{part}": 0.25 for name in names for part in ("rate", "low", "high")}
        for row in scores_rows()
    ]
    write_csv(tmp_path / "scores.csv", told, list(told[0]))
    asked = {**settings(), "behaviour": "faithfulness"}
    rows = verdicts.table({"scores": [tmp_path / "scores.csv"]}, asked)
    assert list(dict.fromkeys(rows["group"])) == ["unsteered", "towards the document", "towards memory"]
    with style.applied():
        figure = verdicts.plot(rows, asked)
    assert all("\nprompts, n = " in axes.get_title("left") for axes in figure.axes)


def test_an_arm_that_was_not_run_has_no_place() -> None:
    arms = config().model_dump(mode="json")["arms"]
    assert ordered(arms, ["ablate", "baseline", "unheard-of"]) == ["baseline", "ablate"]


def test_refusals_start_at_the_left_and_full_responses_end_at_the_right(rows: DataFrame) -> None:
    with style.applied():
        figure = verdicts.plot(rows, settings())
    assert len(figure.axes) == len(LABELS)
    for axes, name in zip(figure.axes, LABELS, strict=True):
        mine = rows[rows["set"] == name]
        bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        refusals, broken, full = (
            bars[start : start + len(mine)] for start in range(0, 3 * len(mine), len(mine))
        )
        assert [bar.get_x() for bar in refusals] == [0.0] * len(mine)
        assert [bar.get_width() for bar in refusals] == pytest.approx(list(mine["refusal_rate"]))
        assert [bar.get_x() + bar.get_width() for bar in full] == pytest.approx([1.0] * len(mine))
        # What is broken fills the space between.
        for left, middle, right in zip(refusals, broken, full, strict=True):
            assert middle.get_x() == pytest.approx(left.get_width())
            assert middle.get_x() + middle.get_width() == pytest.approx(right.get_x())


def test_whiskers_end_where_the_intervals_do(rows: DataFrame) -> None:
    with style.applied():
        figure = verdicts.plot(rows, settings())
    mine = rows[rows["set"] == "harmful"]
    refusal, full = (
        np.array([segment[:, 0] for segment in lines.get_segments()])
        for lines in figure.axes[0].collections
        if isinstance(lines, LineCollection)
    )
    assert refusal == pytest.approx(mine[["refusal_low", "refusal_high"]].to_numpy())
    assert full == pytest.approx(1 - mine[["full_response_high", "full_response_low"]].to_numpy())


def test_unscored_replies_are_said_beside_the_bar(rows: DataFrame) -> None:
    with style.applied():
        figure = verdicts.plot(rows, settings())
    notes = {
        name: [text.get_text() for text in axes.texts] for name, axes in zip(LABELS, figure.axes, strict=True)
    }
    assert [name for name, texts in notes.items() if "3 unscored" in texts] == ["advbench"]


def test_a_judge_without_rows_is_an_error_that_names_it(tmp_path: Path) -> None:
    judges = {"strict": {"kind": "grammar"}, "truth": {"kind": "grammar"}}
    with pytest.raises(SteerError, match="no row of judge `strict`"):
        verdicts.table(scores(tmp_path), settings(judges=judges, scores={"judge": "strict"}))


@pytest.mark.parametrize(
    ("content", "cause"),
    [("", "is empty"), ("arm,set,judge\n", "has no column n, unscored"), (None, "no such file")],
)
def test_a_table_that_lacks_something_is_an_error_that_names_it(
    content: str | None, cause: str, tmp_path: Path
) -> None:
    path = tmp_path / "scores.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SteerError, match=cause):
        verdicts.table({"scores": [path]}, settings())


@pytest.mark.parametrize(
    ("samples", "said"),
    [(1, ["exact McNemar test"]), (3, ["samples of a prompt are worth", "flips of prompts"])],
)
def test_the_summary_names_the_intervals_and_tests_that_were_made(
    tmp_path: Path, samples: int, said: list[str]
) -> None:
    values = registry.settings_of("summary", config(), MODEL) | {"generation.samples": samples}
    summary.draw(scores(tmp_path), values, tmp_path / "summary")
    page = " ".join((tmp_path / "summary.html").read_text(encoding="utf-8").split())
    assert all(words in page for words in said)
    assert ("McNemar" in page) == (samples == 1)


def test_the_summary_prints_rates_changes_and_p_values(tmp_path: Path) -> None:
    inputs, values = scores(tmp_path), registry.settings_of("summary", config(), MODEL)
    summary.draw(inputs, values, tmp_path / "summary")
    page = " ".join((tmp_path / "summary.html").read_text(encoding="utf-8").split())
    assert '<td>3 <span class="faint">[1, 8]</span></td>' in page
    assert '<td>−95 <span class="faint">[−100, −90]</span></td> <td>&lt; 0.001</td>' in page
    assert page.index("add-induce") < page.index("ablate")
    assert (tmp_path / "summary.csv").read_text().count("\n") == 1 + len(ARMS) * len(LABELS)
