import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from steer.artifacts.facts import write_facts
from steer.artifacts.routing import read_routing
from steer.config import RoutingContrast
from steer.errors import SteerError
from steer.routing.published import import_ranking
from tests.activation_sets import MODEL_FACTS
from tests.oracles import routing as oracle


def _import(folder: Path, text: str, moe_layers: tuple[int, ...] = (0, 2)) -> dict[str, np.ndarray]:
    write_facts(folder / "model.json", replace(MODEL_FACTS, moe_layers=moe_layers), {})
    (folder / "ranking.csv").write_text(text)
    import_ranking(folder / "ranking.csv", folder / "model.json", folder / "out.csv")
    return read_routing(folder / "out.csv")


def test_counts_become_rates_and_differences(tmp_path: Path) -> None:
    found = _import(tmp_path, "expert,layer,a1,d1,a2,d2,note\n3,2,30,70,10,190,x\n1,0,0,100,200,0,y\n")
    assert list(zip(found["layer"], found["expert"], strict=True)) == [(0, 1), (2, 3)]
    assert found["risk_difference"] == pytest.approx([-1.0, 0.25])
    assert found["total_1"].tolist() == [100, 100]
    assert found["count_2"].tolist() == [200, 10]
    expected = [oracle.log_odds(0, 100, 200, 200), oracle.log_odds(30, 100, 10, 200)]
    assert found["log_odds_ratio"] == pytest.approx(expected)
    assert np.isnan(found["q_value"]).all()
    assert json.loads((tmp_path / "out.json").read_text())["provenance"]["inputs"]["model"] == "m1"


def test_a_ranking_of_risk_differences_alone_is_enough(tmp_path: Path) -> None:
    found = _import(tmp_path, "layer,expert,risk_difference\n2,0,-0.5\n0,3,0.786\n")
    assert found["risk_difference"].tolist() == [0.786, -0.5]
    assert np.isnan(found["rate_1"]).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer,expert,score\n0,0,1\n", "has columns layer, expert, score"),
        ("layer,expert,risk_difference\n", "has no rows"),
        ("layer,expert,risk_difference\n1,0,0.5\n", "line 2: the model has no expert 0 in layer 1"),
        ("layer,expert,risk_difference\n0,4,0.5\n", "line 2: the model has no expert 4 in layer 0"),
        ("layer,expert,risk_difference\n0,1,0.5\n0,1,0.4\n", "line 3: names an expert for the second time"),
        ("layer,expert,risk_difference\n0,x,0.5\n", "line 2: `expert` is 'x'"),
        ("layer,expert,risk_difference\n0,1,inf\n", "line 2: `risk_difference` is 'inf'"),
        ("layer,expert,a1,d1,a2,d2\n0,1,1,2,-3,4\n", "line 2: `a2` is '-3'"),
        ("layer,expert,a1,d1,a2,d2\n0,1,1,2,0,0\n", "line 2: one side of the contrast has no tokens"),
    ],
)
def test_a_malformed_ranking_is_an_error_that_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SteerError, match=message):
        _import(tmp_path, text)


def test_a_missing_ranking_and_a_dense_model_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="without MoE layers"):
        _import(tmp_path, "layer,expert,risk_difference\n0,1,0.5\n", moe_layers=())
    _import(tmp_path, "layer,expert,risk_difference\n0,1,0.5\n")
    with pytest.raises(SteerError, match="no such file"):
        import_ranking(tmp_path / "none.csv", tmp_path / "model.json", tmp_path / "out.csv")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first": "a"}, "give `first` and `second`, or a `ranking`"),
        ({"ranking": "x.csv", "paired": True}, "leave out `first`, `second` and `paired`"),
    ],
)
def test_a_contrast_is_two_sets_or_a_ranking(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RoutingContrast.model_validate(settings)
