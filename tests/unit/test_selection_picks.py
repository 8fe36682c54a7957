import numpy as np
import pytest

from steer.artifacts.routing import Column
from steer.config.arm_base import Polarity
from steer.errors import SteerError
from steer.judges.behaviours import Side
from steer.selection.picks import Pick, bottom, controls_of, detected, fits, random_matched, reroute_arm


def _ranking(differences: list[float], rates: list[float] | None = None) -> dict[str, Column]:
    n = len(differences)
    rate = np.array(rates if rates else [np.nan] * n)
    return {
        "layer": np.arange(n) // 3,
        "expert": np.arange(n) % 3,
        "risk_difference": np.array(differences),
        "rate_1": rate,
        "rate_2": rate,
    }


RANKING = _ranking([0.5, -0.4, 0.0, 0.3, -0.6, 0.1], [0.9, 0.2, 0.5, 0.6, 0.1, 0.4])


def test_suppressing_deactivates_what_side_1_calls_and_inducing_activates_it() -> None:
    suppress = detected(RANKING, "suppress", 2, 1)
    assert suppress == Pick(activate=((1, 1), (0, 1)), deactivate=((0, 0),))
    induce = detected(RANKING, "induce", 1, 2)
    assert induce == Pick(activate=((0, 0),), deactivate=((1, 1), (0, 1)))
    assert detected(RANKING, "suppress", 0, 0) == Pick()


def test_more_experts_than_the_ranking_has_on_a_side_are_an_error() -> None:
    with pytest.raises(SteerError, match="the ranking has 2 experts that side 2 prefers"):
        detected(RANKING, "suppress", 3, 0)


def test_experts_of_an_unknown_difference_are_never_picked() -> None:
    ranking = _ranking([np.nan, 0.2, np.nan], [0.1, 0.2, 0.3])
    assert detected(ranking, "induce", 1, 0).activate == ((0, 1),)
    with pytest.raises(SteerError, match="has 1 experts"):
        detected(ranking, "induce", 2, 0)
    with pytest.raises(SteerError, match="only 0 others are there"):
        bottom(ranking, Pick(((0, 1),)))


def test_the_bottom_has_the_smallest_differences_and_none_of_the_pick() -> None:
    pick = detected(RANKING, "suppress", 1, 1)
    assert bottom(RANKING, pick) == Pick(activate=((0, 2),), deactivate=((1, 2),))
    overlapping = Pick(activate=((0, 2),), deactivate=((1, 2),))
    assert bottom(RANKING, overlapping) == Pick(activate=((1, 0),), deactivate=((0, 1),))
    with pytest.raises(SteerError, match="a control of 4 experts: only 2 others"):
        bottom(RANKING, detected(RANKING, "suppress", 2, 2))


@pytest.mark.parametrize(("polarity", "side"), [("suppress", 1), ("induce", 2)])
def test_random_experts_are_called_as_often_where_the_effect_is_told_and_are_none_of_those_picked(
    polarity: Polarity, side: Side
) -> None:
    rng = np.random.default_rng(0)
    ranking = _ranking(rng.normal(size=300).tolist(), rng.random(300).tolist())
    ranking["rate_2"] = rng.random(300)
    place = zip(ranking["layer"].tolist(), ranking["expert"].tolist(), strict=True)
    rates = dict(zip(place, ranking[f"rate_{side}"].tolist(), strict=True))
    pick = detected(ranking, polarity, 6, 5)
    drawn = [random_matched(ranking, pick, side, seed) for seed in range(5)]
    assert random_matched(ranking, pick, side, 3) == drawn[3]
    assert len({*drawn}) == 5
    following = detected(ranking, polarity, 12, 10)
    named = {*following.activate, *following.deactivate}
    for one in drawn:
        assert not named & {match.control for match in one}
        found = controls_of(one, 6)
        controls = [*found.activate, *found.deactivate]
        assert (len(found.activate), len(found.deactivate)) == (6, 5)
        assert len({*controls, *pick.activate, *pick.deactivate}) == 22
        assert [match.expert for match in one] == [*pick.activate, *pick.deactivate]
        for match in one:
            assert match.gap(side) == abs(rates[match.control] - rates[match.expert]) < 0.05


def test_a_control_is_not_one_that_only_the_other_side_calls() -> None:
    ranking = _ranking([0.6, 0.0, 0.0, -0.6, 0.0, 0.0], [0.6, 0.5, 0.55, 0.0, 0.65, 0.7])
    ranking["rate_2"] = np.array([0.0, 0.5, 0.55, 0.6, 0.65, 0.7])
    pick = Pick(deactivate=((0, 0),))
    # Of six others the five nearest are drawn from; (1, 0) is called as often by both sides together.
    ranking = {key: np.append(column, column[-1]) for key, column in ranking.items()}
    ranking["layer"][-1], ranking["expert"][-1] = 2, 0
    drawn = {random_matched(ranking, pick, 1, seed)[0].control for seed in range(60)}
    assert drawn == {(0, 1), (0, 2), (1, 1), (1, 2), (2, 0)}


def test_what_a_ranking_names_next_is_drawn_where_too_few_others_remain() -> None:
    few = _ranking([0.6, 0.5, 0.4, 0.0, 0.0, 0.0, 0.0], [0.5] * 7)
    pick = Pick(deactivate=((0, 0),))
    drawn = {random_matched(few, pick, 1, seed)[0].control for seed in range(60)}
    assert (0, 1) in drawn
    more = _ranking([0.6, 0.5, 0.4, *[0.0] * 5], [0.5] * 8)
    drawn = {random_matched(more, pick, 1, seed)[0].control for seed in range(60)}
    assert (0, 1) not in drawn
    assert (0, 2) in drawn


def test_without_rates_or_enough_others_there_are_no_matched_experts() -> None:
    with pytest.raises(SteerError, match="the ranking has no routing rates"):
        random_matched(_ranking([0.1, -0.1]), Pick(((0, 0),)), 1, 0)
    with pytest.raises(SteerError, match="reroute fewer experts"):
        random_matched(RANKING, detected(RANKING, "suppress", 2, 2), 1, 0)


def test_an_arm_has_an_operation_a_layer_with_the_strongest_first() -> None:
    arm = reroute_arm("r", detected(RANKING, "suppress", 2, 2))
    found = [(op.operation, op.layer, op.activate, op.deactivate, op.scope) for op in arm.operations]
    assert found == [("reroute", 0, (1,), (0,), "all"), ("reroute", 1, (1,), (0,), "all")]
    assert reroute_arm("r", Pick()).operations == ()


def test_a_layer_must_keep_as_many_experts_as_a_token_chooses() -> None:
    pick = Pick(deactivate=((0, 0), (0, 1), (1, 0)))
    assert fits(pick, experts=4, top_k=2)
    assert not fits(pick, experts=3, top_k=2)
