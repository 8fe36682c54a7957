import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from steer.misclassification import correct, corrected, simplex
from tests.oracles import misclassification as oracle

LABELLED = np.array([[80, 15, 5], [10, 85, 5], [4, 20, 76]])


def test_rates_are_corrected_as_by_hand_in_exact_fractions() -> None:
    judged = np.array([40, 45, 15])
    found = corrected(judged, LABELLED, np.random.default_rng(0), 200, 0.95)
    exact = oracle.shares(judged.tolist(), LABELLED.tolist())
    assert [share.estimate for share in found.shares] == pytest.approx([float(one) for one in exact])
    assert all(share.low <= share.estimate <= share.high for share in found.shares)
    assert found.resamples == 200


def test_parts_of_a_prompt_are_corrected_as_whole_ones_are() -> None:
    thirds = corrected(np.array([1 / 3, 0, 0]), LABELLED, np.random.default_rng(0), 200, 0.95)
    whole = corrected(np.array([1, 0, 0]), LABELLED, np.random.default_rng(0), 200, 0.95)
    assert thirds.resamples == whole.resamples == 200
    assert thirds.shares == whole.shares


def test_two_classes_are_rogan_and_gladens_formula() -> None:
    sensitivity, specificity, positive = 0.9, 0.7, 0.5
    labelled = np.array([[90, 10], [30, 70]])
    found = corrected(np.array([50, 50]), labelled, np.random.default_rng(0), 100, 0.9)
    expected = (positive + specificity - 1) / (sensitivity + specificity - 1)
    assert found.shares[0].estimate == pytest.approx(expected)


def test_a_perfect_judge_is_left_alone() -> None:
    judged = np.array([3, 5, 2])
    found = corrected(judged, np.diag([10, 20, 30]), np.random.default_rng(0), 100, 0.95)
    assert [share.estimate for share in found.shares] == pytest.approx([0.3, 0.5, 0.2])


def test_what_chance_carries_outside_becomes_the_nearest_shares() -> None:
    judged = np.array([95, 5, 0])
    exact = [float(one) for one in oracle.shares(judged.tolist(), LABELLED.tolist())]
    assert min(exact) < 0
    found = corrected(judged, LABELLED, np.random.default_rng(0), 100, 0.95)
    assert [share.estimate for share in found.shares] == pytest.approx(oracle.nearest(exact))


@given(arrays.arrays(np.float64, (4, 3), elements=st.floats(-3, 3)))
def test_the_nearest_shares_are_those_of_the_slow_search(points: np.ndarray) -> None:
    found = simplex(points)
    assert np.allclose(found.sum(axis=1), 1)
    assert np.allclose(found, [oracle.nearest(point) for point in points.tolist()], atol=1e-9)


@pytest.mark.parametrize(
    ("judged", "labelled"),
    [
        ([5, 5, 0], [[8, 2, 0], [1, 9, 0], [2, 8, 0]]),
        ([0, 0, 0], LABELLED.tolist()),
        ([5, 5, 5], [[8, 2, 0], [1, 9, 0], [0, 0, 0]]),
        ([5, 5, 5], [[5, 5, 5], [5, 5, 5], [1, 2, 9]]),
    ],
    ids=["never says one verdict", "nothing judged", "a class without labels", "two classes judged alike"],
)
def test_errors_that_can_not_be_undone_leave_nothing(judged: list[int], labelled: list[list[int]]) -> None:
    found = corrected(np.array(judged), np.array(labelled), np.random.default_rng(0), 50, 0.95)
    assert found.resamples == 0
    assert all(np.isnan(share.estimate) for share in found.shares)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    truth, errors = np.array([0.5, 0.3, 0.2]), LABELLED / 100
    held = 0
    for _ in range(400):
        judged = rng.multinomial(300, truth @ errors)
        labelled = np.stack([rng.multinomial(100, row) for row in errors])
        share = corrected(judged, labelled, rng, 100, 0.9).shares[1]
        held += share.low <= truth[1] <= share.high
    assert 0.85 <= held / 400 <= 0.95


def test_points_that_can_not_be_corrected_do_not_spoil_the_others() -> None:
    errors = np.stack([np.eye(2), np.array([[0.5, 0.5], [0.5, 0.5]])])
    found = correct(np.array([[0.2, 0.8], [0.2, 0.8]]), errors)
    assert found[0] == pytest.approx([0.2, 0.8])
    assert np.isnan(found[1]).all()
