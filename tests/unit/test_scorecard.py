import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from steer.artifacts.files import write_csv
from steer.errors import SteerError
from steer.scorecard import (
    Truth,
    average_precision,
    compare,
    precision,
    ranking,
    ranks,
    read_detection,
    thresholds,
)

EXPERTS = [(layer, expert) for layer in range(4) for expert in range(8)]
CARRIERS = frozenset({(1, 3), (2, 5)})


def _scores(seed: int) -> dict[tuple[int, int], float]:
    values = np.random.default_rng(seed).normal(size=len(EXPERTS))
    return dict(zip(EXPERTS, values.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_is_that_of_scikit_learn(seed: int) -> None:
    scores = _scores(seed)
    labels = [expert in CARRIERS for expert in EXPERTS]
    expected = average_precision_score(labels, [scores[expert] for expert in EXPERTS])
    assert average_precision(scores, CARRIERS) == pytest.approx(expected, rel=1e-12)


def test_ranks_precision_and_order_by_hand() -> None:
    scores = {(0, 0): 0.1, (0, 1): 0.9, (1, 0): math.nan, (1, 1): 0.9, (2, 0): 0.5}
    assert ranking(scores) == [(0, 1), (1, 1), (2, 0), (0, 0), (1, 0)]
    # Equal scores share the worst place; a score that is not known comes last.
    assert ranks(scores, [(0, 1), (2, 0), (1, 0)]) == [2, 3, 5]
    assert precision(scores, frozenset({(0, 1)})) == 0.0
    assert precision(scores, frozenset({(0, 1), (1, 1)})) == 1.0
    assert precision(scores, frozenset({(0, 1), (2, 0)})) == 0.5
    assert math.isnan(precision(scores, frozenset()))
    assert math.isnan(average_precision(scores, frozenset()))


def test_a_detector_that_says_nothing_is_not_lucky() -> None:
    flat = dict.fromkeys(EXPERTS, 0.0)
    assert precision(flat, CARRIERS) == 0.0
    assert average_precision(flat, CARRIERS) == pytest.approx((1 / 32 + 2 / 32) / 2)


def test_alarms_are_scores_above_the_largest_of_natural_models() -> None:
    natural = [{"norm": _scores(1)}, {"norm": _scores(2)}]
    largest = max(*_scores(1).values(), *_scores(2).values())
    assert thresholds(natural) == {"norm": largest}
    scores = dict.fromkeys(EXPERTS, largest - 1) | {(3, 0): largest + 1, (3, 1): largest}
    truth = Truth("attention", frozenset(), frozenset({(3, 1)}), frozenset({"norm"}))
    (row,) = compare("model", truth, {"norm": scores}, thresholds(natural))
    assert (row["alarms"], row["top"], row["decoy_rank"], row["ranks"]) == (1, "3:0", "2", "")
    assert (row["precision"], row["average_precision"], row["related"]) == (None, None, True)


def test_a_detection_table_is_read_back_and_a_missing_one_named(tmp_path: Path) -> None:
    path = tmp_path / "detection.csv"
    with pytest.raises(SteerError, match="no such file"):
        read_detection(path)
    write_csv(path, [{"layer": 1, "expert": 3, "a": 0.5, "b": None}], ["layer", "expert", "a", "b"])
    found = read_detection(path)
    assert found["a"] == {(1, 3): 0.5}
    assert math.isnan(found["b"][1, 3])
