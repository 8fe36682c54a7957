import json
from pathlib import Path

import numpy as np
import pytest

from steer.artifacts.routing import write_routing
from steer.config import RoutingSettings
from steer.errors import SteerError
from steer.routing.sorting import write_experts

SETTINGS = RoutingSettings(q_value=0.01, stability=0.8)


def _table(path: Path, differences: list[float], q_values: list[float], stability: list[float]) -> Path:
    write_routing(
        path,
        {
            "layer": np.zeros(len(differences)),
            "expert": np.arange(len(differences)),
            "risk_difference": np.array(differences),
            "q_value": np.array(q_values),
            "prompt_stability": np.array(stability),
        },
    )
    return path


def test_an_expert_is_called_where_its_difference_is_positive_significant_and_stable(tmp_path: Path) -> None:
    sure, low = 0.01, 0.02
    recognise = _table(
        tmp_path / "prompt.csv",
        [0.5, 0.5, 0.1, -0.5, 0.5, 0.5, 0.4],
        [sure, sure, 0.5, sure, low, sure, np.nan],
        [0.8, 1.0, 1.0, 1.0, 1.0, 0.7, 1.0],
    )
    control = _table(tmp_path / "response.csv", [0.5, -0.5, 0.5, 0.0, 0.0, 0.0, 0.0], [sure] * 7, [0.9] * 7)
    write_experts(recognise, control, tmp_path / "experts.csv", SETTINGS)
    lines = [line.split(",") for line in (tmp_path / "experts.csv").read_text().splitlines()]
    assert lines[0][:3] == ["layer", "expert", "group"]
    assert lines[0][3:] == [
        f"{contrast}_{column}"
        for contrast in ("recognise", "control")
        for column in ("risk_difference", "q_value", "prompt_stability")
    ]
    groups = [line[2] for line in lines[1:]]
    assert groups == ["both", "recognise", "control", *["neither"] * 4]
    record = json.loads((tmp_path / "experts.json").read_text())
    assert record["counts"] == {"both": 1, "recognise": 1, "control": 1, "neither": 4}
    assert record["thresholds"] == {"q_value": 0.01, "stability": 0.8}


def test_tables_of_other_experts_are_an_error(tmp_path: Path) -> None:
    one = _table(tmp_path / "a.csv", [0.1], [0.1], [0.1])
    two = _table(tmp_path / "b.csv", [0.1] * 2, [0.1] * 2, [0.1] * 2)
    with pytest.raises(SteerError, match="has other experts than"):
        write_experts(one, two, tmp_path / "experts.csv", SETTINGS)
