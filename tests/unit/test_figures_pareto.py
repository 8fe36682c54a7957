"""Gains against costs: which arms nobody beats, and where the numbers come from."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas import DataFrame

from steer.artifacts.files import write_csv
from steer.figures import pareto, registry
from tests.figure_inputs import build
from tests.figure_inputs.scores import scores_rows
from tests.figure_inputs.study import MODEL

point = st.tuples(st.integers(0, 4), st.integers(0, 4))


@settings(max_examples=80, deadline=None)
@given(points=st.lists(point, min_size=1, max_size=8))
def test_the_front_is_what_no_weighing_of_gain_and_cost_can_shame(points: list[tuple[int, int]]) -> None:
    found = pareto.front(DataFrame(points, columns=["gain", "value"]))
    assert any(found)
    for (gain, value), kept in zip(points, found, strict=True):
        more = [g for g, v in points if v <= value]
        less = [v for g, v in points if g >= gain]
        assert kept == (max(more) == gain and min(less) == value)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> DataFrame:
    config = build(tmp_path_factory.mktemp("results"))
    paths = registry.paths_of("pareto", config, MODEL)
    inputs = {key: [Path(path) for path in found] for key, found in paths.items()}
    return pareto.table(inputs, registry.settings_of("pareto", config, MODEL))


def test_every_arm_has_every_cost_of_its_polarity(rows: DataFrame) -> None:
    costs = rows.groupby("arm")["cost"].agg(set).to_dict()
    assert "baseline" not in costs
    assert costs["ablate"] == {*pareto.COSTS}
    # Refusing harmless prompts is what it is for, and no cost.
    assert costs["add-induce"] == {*pareto.COSTS} - {"over_refusal"}
    assert set(rows[rows["arm"] == "add-induce"]["set"]) == {"harmless"}
    assert set(rows[rows["control"]]["arm"]) >= {"add-random", "induce-random"}


def test_losses_are_positive_and_hold_their_intervals(rows: DataFrame) -> None:
    measured = rows[rows["cost"].isin(["perplexity", "capability"])]
    assert (measured["value"] >= 0).all()
    assert (measured["value_low"] <= measured["value"]).all()
    assert (measured["value"] <= measured["value_high"]).all()


def test_side_effects_that_are_not_measured_leave_their_panels_out(tmp_path: Path) -> None:
    config = build(tmp_path)
    config = config.model_copy(
        update={
            "capability": config.capability.model_copy(update={"tasks": {}}),
            "perplexity": config.perplexity.model_copy(update={"sets": ()}),
        }
    )
    paths = registry.paths_of("pareto", config, MODEL)
    assert paths["effects"] == []
    inputs = {key: [Path(path) for path in found] for key, found in paths.items()}
    settings = registry.settings_of("pareto", config, MODEL)
    assert set(pareto.table(inputs, settings)["cost"]) == {"kl", "over_refusal", "broken"}
    pareto.draw(inputs, settings, tmp_path / "pareto")
    assert (tmp_path / "pareto.svg").stat().st_size > 1000


def test_a_judge_with_a_score_has_no_panel_of_broken_replies(tmp_path: Path) -> None:
    config = build(tmp_path)
    paths = registry.paths_of("pareto", config, MODEL)
    inputs = {key: [Path(path) for path in found] for key, found in paths.items()}
    rows = [row | {"coherence": None} for row in scores_rows()]
    write_csv(inputs["scores"][0], rows, [*rows[0]])
    settings = registry.settings_of("pareto", config, MODEL)
    assert set(pareto.table(inputs, settings)["cost"]) == {*pareto.COSTS} - {"broken"}
