"""Dose and response of experts: the chosen place of each arm, and what was measured at each dose."""

import json
from pathlib import Path

import numpy as np
import pytest
from pandas import DataFrame

from steer.artifacts.files import write_csv
from steer.errors import SteerError
from steer.figures import experts_dose, registry, style
from steer.figures.inputs import Inputs, Settings
from steer.stats import wilson
from tests.figure_inputs import build
from tests.figure_inputs.choices import experts_rows
from tests.figure_inputs.study import COEFFICIENTS, EXPERT_CHOICES, MODEL, config


def settings(**changes: object) -> Settings:
    return registry.settings_of("experts_dose", config(**changes), MODEL)


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    paths = registry.paths_of("experts_dose", build(tmp_path), MODEL)
    return {name: [Path(path) for path in found] for name, found in paths.items()}


@pytest.fixture
def rows(inputs: Inputs) -> DataFrame:
    return experts_dose.table(inputs, settings())


def test_every_dose_of_the_chosen_place_has_a_row_and_no_other_place(rows: DataFrame) -> None:
    assert {arm: sorted(part["strength"]) for arm, part in rows.groupby("arm")} == dict.fromkeys(
        EXPERT_CHOICES, sorted(COEFFICIENTS)
    )
    assert set(rows["position"]) == {-1}
    places = {arm: (part["layer"].iloc[0], part["expert"].iloc[0]) for arm, part in rows.groupby("arm")}
    assert places["expert"] == EXPERT_CHOICES["expert"]
    assert np.isnan(places["experts"][1])
    assert rows["dose"].to_numpy() == pytest.approx(16.0 * rows["strength"].to_numpy())


def test_the_interval_is_of_the_verdict_that_the_arm_is_for_where_it_was_judged(rows: DataFrame) -> None:
    for row in rows.to_dict(orient="records"):
        wanted = "refusal" if row["arm"] == "expert-induce" else "full_response"
        assert row["success"] == wanted
        if row["stage"] == "judged":
            expected = wilson(int(row[wanted]), int(row["n"]))
            assert (row["success_low"], row["success_high"]) == pytest.approx((expected.low, expected.high))
        else:
            assert np.isnan(row["success_low"])
            assert np.isnan(row["success_high"])


def test_an_arm_has_three_panels_whose_lines_are_what_was_measured(rows: DataFrame) -> None:
    with style.applied():
        figure = experts_dose.plot(rows, settings())
    titles = [axes.get_title(loc="left") for axes in figure.axes[::3]]
    assert titles == ["expert-induce", "expert", "experts"]
    for arm, top, middle, bottom in zip(
        titles, figure.axes[::3], figure.axes[1::3], figure.axes[2::3], strict=True
    ):
        mine = rows[rows["arm"] == arm]
        judged = mine[mine["stage"] == "judged"]
        for line, verdict in zip(top.lines, experts_dose.VERDICTS, strict=False):
            assert np.asarray(line.get_ydata()) == pytest.approx(judged[verdict] / judged["n"])
        assert np.asarray(middle.lines[0].get_ydata()) == pytest.approx(mine["refusal_score"])
        assert middle.lines[1].get_ydata()[0] == (-6.0 if arm == "expert-induce" else 5.0)
        assert np.asarray(bottom.lines[0].get_ydata()) == pytest.approx(mine["kl"])
        marked = [line.get_xdata()[0] for line in top.lines if line.get_color() == style.CHOICE]
        assert marked == [1.0]


def test_a_table_without_a_choice_is_an_error(inputs: Inputs) -> None:
    rows = [{**row, "chosen": False} for row in experts_rows()]
    write_csv(inputs["experts_selection"][0], rows, list(rows[0]))
    with pytest.raises(SteerError, match="holds no choice"):
        experts_dose.table(inputs, settings())


def test_a_record_that_lacks_an_arm_is_an_error_that_names_it(inputs: Inputs) -> None:
    inputs["experts_choice"][0].write_text(json.dumps({"choices": {"expert": {}}}))
    with pytest.raises(SteerError, match="says nothing of arm `expert`"):
        experts_dose.table(inputs, settings())


def test_it_is_left_out_where_no_expert_is_chosen() -> None:
    assert "experts_dose" in registry.figures_of(config())
    arms = {"baseline": {"operation": "none"}, "ablate": {"operation": "ablate"}}
    assert "experts_dose" not in registry.figures_of(config(arms=arms))
