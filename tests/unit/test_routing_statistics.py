import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test
from statsmodels.stats.contingency_tables import Table2x2
from statsmodels.stats.multitest import multipletests

from steer.artifacts.prompts import Prompt
from steer.routing.counts import Side
from steer.routing.resampling import BLOCK, bootstrap, halves, left_out, ratios
from steer.routing.significance import flipped, flips, permutations, permuted
from steer.routing.statistics import Method, rates, risk_differences, stability, statistics
from steer.stats import benjamini_hochberg, log_odds_ratio
from tests.oracles import routing as oracle

EXPERTS = 6
METHOD = Method(paired=False, resamples=1000, confidence=0.9, top=2, seed=3)


def side(seed: int, prompts: int, lean: float = 0.0, experts: int = EXPERTS) -> Side:
    """Random counts on spans of 3 to 9 tokens; `lean` makes expert 0 more likely."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, 10, prompts)
    share = np.linspace(0.1, 0.6, experts)
    share[0] += lean
    chosen = rng.binomial(tokens[:, None], share)
    names = [Prompt(f"{seed}-{n}", "x", "harmful", "train", f"c{n % 3}") for n in range(prompts)]
    return Side("set", tuple(names), chosen.astype(np.int16), (chosen // 2).astype(np.int16), tokens)


SIDES = (side(1, 30, 0.3), side(2, 25))


def column(found: Side, expert: int) -> list[tuple[int, int]]:
    return list(zip(found.chosen[:, expert].tolist(), found.tokens.tolist(), strict=True))


@given(st.lists(st.floats(1e-12, 1), min_size=1, max_size=40))
def test_q_values_are_those_of_statsmodels(p_values: list[float]) -> None:
    expected = multipletests(p_values, method="fdr_bh")[1]
    assert benjamini_hochberg(np.array(p_values)) == pytest.approx(expected)


@given(st.tuples(*[st.integers(0, 50)] * 4))
def test_log_odds_are_those_of_statsmodels_with_half_a_token_in_each_cell(cells: tuple[int, ...]) -> None:
    a, b, c, d = cells
    found = log_odds_ratio(*(np.array([n]) for n in (a, a + b, c, c + d)))[0]
    table = np.array([[a, b], [c, d]]) + 0.5
    assert found == pytest.approx(Table2x2(table).log_oddsratio)
    assert found == pytest.approx(oracle.log_odds(a, a + b, c, c + d))


def test_point_estimates_are_those_counted_by_hand() -> None:
    found = statistics(SIDES, METHOD)
    for expert in range(EXPERTS):
        pairs = [list(zip(*column(one, expert), strict=True)) for one in SIDES]
        token = [oracle.pooled(*pair) for pair in pairs]
        prompt = [oracle.mean_rate(*pair) for pair in pairs]
        assert found["risk_difference"][expert] == pytest.approx(token[0] - token[1])
        assert found["prompt_risk_difference"][expert] == pytest.approx(prompt[0] - prompt[1])
        assert found["count_1"][expert] == sum(pairs[0][0])
        assert found["total_2"][expert] == sum(pairs[1][1])
        strongest = [one.strongest[:, expert].sum() / one.tokens.sum() for one in SIDES]
        assert found["top1_difference"][expert] == pytest.approx(strongest[0] - strongest[1])


def test_intervals_are_those_of_an_explicit_loop_over_drawn_prompts() -> None:
    found = statistics(SIDES, Method(paired=False, resamples=8000, confidence=0.9, top=2, seed=0))
    for expert in (0, 3):
        loop = oracle.bootstrap(column(SIDES[0], expert), column(SIDES[1], expert), 8000)
        low, high = np.quantile(loop, [0.05, 0.95])
        width = high - low
        assert found["ci_low"][expert] == pytest.approx(low, abs=0.05 * width)
        assert found["ci_high"][expert] == pytest.approx(high, abs=0.05 * width)


def test_a_resample_is_what_its_weights_say() -> None:
    weights = (bootstrap(30, 7, np.random.default_rng(0)), bootstrap(25, 7, np.random.default_rng(1)))
    found = risk_differences(SIDES, weights)
    for number in range(7):
        drawn = [
            np.repeat(np.arange(len(one.tokens)), weight[number].astype(int))
            for one, weight in zip(SIDES, weights, strict=True)
        ]
        for expert in range(EXPERTS):
            pools = [
                oracle.pooled(one.chosen[rows, expert].tolist(), one.tokens[rows].tolist())
                for one, rows in zip(SIDES, drawn, strict=True)
            ]
            assert found[number, expert] == pytest.approx(pools[0] - pools[1])


def test_blocks_of_experts_change_nothing() -> None:
    wide = side(5, 12, experts=2 * BLOCK + 3)
    weights = bootstrap(12, 4, np.random.default_rng(0))
    expected = (weights @ wide.chosen) / (weights @ wide.tokens)[:, None]
    assert ratios(weights, wide.chosen, wide.tokens) == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_p_values_are_those_of_every_relabelling(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 4, (5, 2)) / 3, rng.integers(0, 4, (4, 2)) / 3
    found = permuted(first, second, permutations(5, 4, rng, 20000))
    exact = [oracle.permutation_p(first[:, e].tolist(), second[:, e].tolist()) for e in range(2)]
    assert found == pytest.approx(exact, abs=0.02)
    paired = flipped(first[:4] - second, flips(4, rng, 20000))
    assert paired == pytest.approx(
        [oracle.sign_flip_p((first[:4, e] - second[:, e]).tolist()) for e in range(2)], abs=0.02
    )


def test_beyond_the_drawn_relabellings_the_tail_has_the_right_size() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.binomial(5, 0.57, (60, 1)) / 5, rng.binomial(5, 0.35, (60, 1)) / 5
    found = permuted(first, second, permutations(60, 60, rng, 2000))[0]
    drawn = permutation_test(
        (first[:, 0], second[:, 0]),
        lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis),
        n_resamples=300_000,
        rng=rng,
        batch=20_000,
        vectorized=True,
    ).pvalue
    assert 1e-5 < drawn < 1 / 2001
    assert found == pytest.approx(drawn, rel=0.3)


def test_sides_without_overlap_have_the_smallest_p_value_that_relabelling_can_give() -> None:
    rng = np.random.default_rng(0)
    ones, zeros = np.ones((20, 1)), np.zeros((20, 1))
    assert permuted(ones, zeros, permutations(20, 20, rng, 500))[0] >= 1 / math.comb(40, 20)
    assert permuted(ones, zeros, permutations(20, 20, rng, 500))[0] < 1e-8
    assert flipped(ones, flips(20, rng, 500))[0] == pytest.approx(2**-19, rel=8)
    assert permuted(ones, ones, permutations(20, 20, rng, 500))[0] == 1


def test_p_values_of_equal_sides_are_uniform() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.binomial(5, 0.4, (40, 400)) / 5, rng.binomial(5, 0.4, (40, 400)) / 5
    found = permuted(first, second, permutations(40, 40, rng, 999))
    assert 0.02 < (found < 0.05).mean() < 0.09
    assert 0.4 < np.median(found) < 0.65


def test_stability_counts_how_often_an_expert_is_among_the_best() -> None:
    differences = np.array([[0.5, -0.6, 0.1, 0.0], [0.0, -0.2, 0.1, 0.0], [0.3, 0.3, 0.3, 0.0]])
    found = stability(differences, 2)
    expected = np.mean([oracle.in_top(row.tolist(), 2) for row in differences], axis=0)
    assert found.tolist() == expected.tolist() == [2 / 3, 1.0, 1 / 3, 0.0]
    assert stability(np.zeros((4, 3)), 2).tolist() == [0, 0, 0]


def test_halves_are_disjoint_and_complete() -> None:
    found = halves(7, 10, np.random.default_rng(0))
    assert found.shape == (20, 7)
    assert (found[:10] + found[10:] == 1).all()
    assert {*found.sum(axis=1)} == {3, 4}


def test_leaving_out_a_category_recounts_without_it() -> None:
    found = statistics(SIDES, METHOD)["category_stability"]
    expected = []
    for name in ("c0", "c1", "c2"):
        kept = [[n for n, p in enumerate(one.prompts) if p.category != name] for one in SIDES]
        differences = [
            oracle.pooled(SIDES[0].chosen[kept[0], e].tolist(), SIDES[0].tokens[kept[0]].tolist())
            - oracle.pooled(SIDES[1].chosen[kept[1], e].tolist(), SIDES[1].tokens[kept[1]].tolist())
            for e in range(EXPERTS)
        ]
        expected.append(oracle.in_top(differences, METHOD.top))
    assert found == pytest.approx(np.mean(expected, axis=0))
    assert left_out(["a", "b"], ["b"]).tolist() == [[1, 0]]


def test_one_category_alone_has_no_stability_over_categories() -> None:
    one = side(1, 8)
    plain = Side("set", (one.prompts[0],) * 8, one.chosen, one.strongest, one.tokens)
    assert np.isnan(statistics((plain, plain), METHOD)["category_stability"]).all()


def test_pairs_are_drawn_and_swapped_together() -> None:
    # Prompts differ far more than the two sides of each pair do.
    one = side(1, 40)
    level = np.random.default_rng(0).integers(0, 9, (40, 1)).astype(np.int16)
    first = Side("a", one.prompts, level + 1, level, np.full(40, 10))
    second = Side("b", one.prompts, level + (np.arange(40) % 4 == 0)[:, None], level, np.full(40, 10))
    paired = statistics((first, second), Method(True, 500, 0.95, 1, 0))
    apart = statistics((first, second), Method(False, 500, 0.95, 1, 0))
    assert paired["risk_difference"] == apart["risk_difference"]
    assert paired["ci_high"] - paired["ci_low"] < 0.2 * (apart["ci_high"] - apart["ci_low"])
    assert paired["p_value"][0] < 1e-6 < 0.1 < apart["p_value"][0]


def test_the_same_seed_gives_the_same_numbers() -> None:
    first, second = statistics(SIDES, METHOD), statistics(SIDES, METHOD)
    assert all(np.array_equal(first[name], second[name], equal_nan=True) for name in first)
    assert rates(SIDES[0]).shape == (30, EXPERTS)


def test_memory_is_a_few_matrices_of_resamples_by_experts() -> None:
    wide = (side(1, 200, experts=4 * BLOCK), side(2, 200, experts=4 * BLOCK))
    tracemalloc.start()
    statistics(wide, Method(False, 200, 0.95, 5, 0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 200 * 4 * BLOCK * 8
