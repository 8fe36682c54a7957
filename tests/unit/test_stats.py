import math
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest, norm
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from steer.stats import (
    UNDEFINED,
    Interval,
    accuracy,
    clustered,
    cohen_kappa,
    confusion,
    difference_of_shares,
    equivalence,
    holm,
    mcnemar,
    paired_difference,
    ratio_of_differences,
    sign_flips,
    spearman,
    wilson,
)

Pairs = list[tuple[Any, Any]]

outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)
verdicts = st.sampled_from(["refusal", "full_response", "non_response"])
judgements = st.lists(st.tuples(verdicts, verdicts), min_size=1, max_size=60)


def columns(pairs: Pairs, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    return np.array([a for a, _ in pairs], dtype=dtype), np.array([b for _, b in pairs], dtype=dtype)


def nan_everywhere(interval: Interval) -> bool:
    return all(math.isnan(value) for value in interval)


@given(n=st.integers(1, 500), data=st.data(), confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_equals_statsmodels(n: int, data: st.DataObject, confidence: float) -> None:
    successes = data.draw(st.integers(0, n))
    low, high = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    assert wilson(successes, n, confidence) == pytest.approx((successes / n, low, high), abs=1e-12)


@given(thirds=st.lists(st.integers(-3, 3), max_size=9))
def test_sign_flips_equal_all_choices_of_signs(thirds: list[int]) -> None:
    choices = [sum(s * one for s, one in zip(signs, thirds, strict=True)) for signs in _signs(len(thirds))]
    far = [abs(one) >= abs(sum(thirds)) for one in choices]
    assert sign_flips(np.array(thirds, dtype=float) / 3, 3, np.random.default_rng(0)) == pytest.approx(
        sum(far) / len(far)
    )


@given(pairs=outcomes)
def test_sign_flips_of_one_reply_a_prompt_are_mcnemars(pairs: Pairs) -> None:
    treated, control = columns(pairs, np.bool_)
    found = sign_flips(treated.astype(float) - control, 1, np.random.default_rng(0))
    assert found == pytest.approx(mcnemar(treated, control))


def test_signs_are_drawn_where_their_sums_are_too_many() -> None:
    differences = np.array([3, 2, 2, 1, -1, -1, 0, 3, 1, 2, -2, 1]) / 3
    exact = sign_flips(differences, 3, np.random.default_rng(0))
    # Replies in numbers whose least common multiple is that of 1 to 40.
    drawn = [sign_flips(differences, math.lcm(*range(1, 41)), np.random.default_rng(0)) for _ in range(2)]
    assert drawn[0] == drawn[1] == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 20_000) ** 0.5)
    assert sign_flips(np.full(60, 1.0), 10**9, np.random.default_rng(0)) == 1 / 20_001


def test_one_prompt_is_worth_one_reply_whatever_its_samples_say() -> None:
    assert clustered(8, np.array([0.8]), 10) == wilson(0.8, 1)


def test_a_few_prompts_are_worth_fewer_replies_by_the_quantiles_of_t() -> None:
    clusters, n = np.array([1, 5, 9, 5, 2, 9]) / 10, 60
    found = clustered(31, clusters, n, 0.9)
    # The design effect and its factor in exact fractions, with Student's 95 % quantiles from a printed table.
    shares = [Fraction(one, 10) for one in (1, 5, 9, 5, 2, 9)]
    mean = sum(shares) / 6
    variance = sum((one - mean) ** 2 for one in shares) / 5 / 6
    effective = float(mean * (1 - mean) / variance) * (1.6711 / 2.0150) ** 2
    assert 6 < effective < n
    low, high = proportion_confint(float(mean) * effective, effective, alpha=0.1, method="wilson")
    assert found == pytest.approx((31 / 60, low, high), abs=1e-4)


def test_the_interval_of_clusters_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(600):
        each = rng.binomial(10, rng.beta(4, 4, 8)) / 10
        found = clustered(round(10 * each.sum()), each, 80)
        held += found.low <= 0.5 <= found.high
    assert held / 600 > 0.94


def _signs(n: int) -> list[tuple[int, ...]]:
    return list(product((-1, 1), repeat=n))


@given(n=st.integers(1, 300), m=st.integers(1, 300), data=st.data())
def test_difference_of_shares_equals_newcombes_interval_of_statsmodels(
    n: int, m: int, data: st.DataObject
) -> None:
    one, other = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    low, high = confint_proportions_2indep(one, n, other, m, method="newcomb", compare="diff")
    found = difference_of_shares(wilson(one, n), wilson(other, m))
    assert found == pytest.approx((one / n - other / m, low, high), abs=1e-9)


@given(n=st.integers(1, 2000), data=st.data())
def test_wilson_contains_its_estimate_and_stays_within_zero_and_one(n: int, data: st.DataObject) -> None:
    share, low, high = wilson(data.draw(st.integers(0, n)), n)
    assert 0 <= low <= share <= high <= 1


@given(n=st.integers(0, 200), data=st.data())
def test_wilson_of_the_failures_mirrors_wilson_of_the_successes(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    share, low, high = wilson(successes, n)
    mirrored = wilson(n - successes, n)
    assert mirrored == pytest.approx((1 - share, 1 - high, 1 - low), abs=1e-12, nan_ok=True)


def test_fifty_of_fifty_is_not_certainty() -> None:
    assert wilson(50, 50).low == pytest.approx(0.9287, abs=1e-4)


def test_estimates_without_observations_are_undefined_not_zero() -> None:
    rng = np.random.default_rng(0)
    nothing = np.zeros(0)
    assert nan_everywhere(wilson(0, 0))
    assert nan_everywhere(accuracy([], []))
    assert nan_everywhere(paired_difference(nothing, nothing, rng))
    assert nan_everywhere(cohen_kappa([], [], rng))
    assert nan_everywhere(UNDEFINED)


@pytest.mark.parametrize("successes", [-1, 6])
def test_wilson_refuses_impossible_counts(successes: int) -> None:
    with pytest.raises(ValueError, match="among 5"):
        wilson(successes, 5)


def bootstrap_by_hand(treated: np.ndarray, control: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Percentile bootstrap, prompt by prompt."""
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        rows = [int(rng.integers(len(treated))) for _ in treated]
        means.append(sum(treated[row] - control[row] for row in rows) / len(rows))
    return np.quantile(means, [0.025, 0.975])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["verdicts", "measurements"])
def test_the_bootstrap_equals_resampling_prompts_one_by_one(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    treated, control = rng.random(40), rng.random(40) + 0.2
    if kind == "verdicts":
        treated, control = (treated > 0.3).astype(float), (control > 0.6).astype(float)
    estimate, low, high = paired_difference(treated, control, np.random.default_rng(1), resamples=20000)
    assert estimate == pytest.approx((treated - control).mean())
    # The tolerance is the Monte Carlo error of 1500 resamples; verdicts also move in steps of 1/40.
    assert (low, high) == pytest.approx(bootstrap_by_hand(treated, control, 1500, seed), abs=0.03)


def test_the_bootstrap_equals_the_exhaustive_distribution_of_resamples() -> None:
    treated, control = np.array([1.0, 1.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, 0.0, 0.0, 1.0])
    differences = treated - control
    exhaustive = [np.mean([differences[row] for row in rows]) for rows in product(range(5), repeat=5)]
    drawn = paired_difference(treated, control, np.random.default_rng(0), resamples=50000)
    assert drawn[1:] == pytest.approx(np.quantile(exhaustive, [0.025, 0.975]), abs=1e-9)


@given(outcomes, st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_the_paired_difference_changes_sign_with_the_arms_and_stays_within_one(
    pairs: Pairs, seed: int
) -> None:
    treated, control = columns(pairs, np.float64)
    forward = paired_difference(treated, control, np.random.default_rng(seed), resamples=200)
    backward = paired_difference(control, treated, np.random.default_rng(seed), resamples=200)
    assert forward.estimate == -backward.estimate
    assert -1 <= forward.low <= forward.high <= 1


def test_equal_arms_differ_by_exactly_nothing() -> None:
    same = np.array([1.0, 0.0, 1.0])
    assert paired_difference(same, same, np.random.default_rng(0)) == (0, 0, 0)


def test_the_same_seed_gives_the_same_interval() -> None:
    rng = np.random.default_rng(3)
    treated, control = rng.random(30), rng.random(30)
    runs = [paired_difference(treated, control, np.random.default_rng(7)) for _ in range(2)]
    assert runs[0] == runs[1]


@given(outcomes)
def test_mcnemar_equals_statsmodels_and_a_binomial_test(pairs: Pairs) -> None:
    treated, control = columns(pairs, np.bool_)
    table = [[np.sum(treated & control), np.sum(treated & ~control)], [np.sum(~treated & control), 0]]
    discordant = int(table[0][1] + table[1][0])
    assert mcnemar(treated, control) == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue)
    if discordant:
        assert mcnemar(treated, control) == pytest.approx(binomtest(int(table[0][1]), discordant).pvalue)


def test_mcnemar_without_discordant_pairs_is_one() -> None:
    same = np.array([True, False, True])
    assert mcnemar(same, same) == 1
    assert mcnemar(same[:0], same[:0]) == 1


def test_mcnemar_of_thousands_of_pairs_neither_overflows_nor_underflows_early() -> None:
    treated = np.arange(5000) >= 0
    assert 0 <= mcnemar(treated, ~treated) < 1e-300
    half = np.arange(5000) % 2 == 0
    assert mcnemar(half, ~half) == 1


def kappa_by_hand(first: list[str], second: list[str]) -> float:
    n = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    chance = sum(first.count(label) * second.count(label) for label in set(first)) / n**2
    return math.nan if chance == 1 else (observed - chance) / (1 - chance)


@given(judgements)
def test_kappa_equals_its_definition_and_scikit_learn(pairs: Pairs) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    kappa = cohen_kappa(first, second, np.random.default_rng(0), resamples=100).estimate
    assert kappa == pytest.approx(kappa_by_hand(first, second), nan_ok=True)
    if not math.isnan(kappa):
        assert kappa == pytest.approx(cohen_kappa_score(first, second))


def test_the_interval_of_kappa_equals_resampling_items_one_by_one() -> None:
    rng = np.random.default_rng(5)
    labels = ["a", "b", "c"]
    first = [labels[k] for k in rng.integers(3, size=50)]
    second = [label if rng.random() < 0.7 else labels[rng.integers(3)] for label in first]
    by_hand = []
    for _ in range(1500):
        rows = rng.integers(50, size=50)
        by_hand.append(kappa_by_hand([first[row] for row in rows], [second[row] for row in rows]))
    drawn = cohen_kappa(first, second, np.random.default_rng(0), resamples=20000)
    assert drawn[1:] == pytest.approx(np.quantile(by_hand, [0.025, 0.975]), abs=0.03)


def test_kappa_is_one_for_equal_judges_and_undefined_for_a_single_label() -> None:
    rng = np.random.default_rng(0)
    assert cohen_kappa(["a", "b"] * 20, ["a", "b"] * 20, rng) == (1, 1, 1)
    assert nan_everywhere(cohen_kappa(["a", "a"], ["a", "a"], rng))


def test_kappa_keeps_its_interval_when_some_resamples_hold_a_single_label() -> None:
    interval = cohen_kappa(["a", "a", "a", "b"], ["a", "a", "a", "b"], np.random.default_rng(0))
    assert interval == (1, 1, 1)


def test_confusion_has_true_labels_in_rows() -> None:
    table = confusion(judged=["x", "x", "y"], truth=["x", "y", "y"], labels=["x", "y"])
    assert table.tolist() == [[1, 0], [1, 1]]


def test_confusion_refuses_a_label_that_is_not_offered() -> None:
    with pytest.raises(KeyError):
        confusion(["z"], ["x"], ["x", "y"])


def test_accuracy_counts_equal_labels() -> None:
    assert accuracy(["a", "b", "a", "a"], ["a", "b", "b", "a"]) == wilson(3, 4)


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_the_correlation_of_mean_ranks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one = rng.integers(0, 8, size=40).astype(float)
    other = one + rng.normal(size=40) * 4

    def mean_rank(value: float, side: Any) -> float:
        return float(sum(side < value) + (sum(side == value) + 1) / 2)

    ranks = [[mean_rank(value, side) for value in side] for side in (one, other)]
    found = spearman(one, other)
    assert found.estimate == pytest.approx(float(np.corrcoef(*ranks)[0, 1]), rel=1e-12)
    z, width = math.atanh(found.estimate), 1.959964 * math.sqrt((1 + found.estimate**2 / 2) / 37)
    assert (found.low, found.high) == pytest.approx((math.tanh(z - width), math.tanh(z + width)), rel=1e-5)


def test_spearman_of_too_little_is_undefined_and_of_the_same_order_one() -> None:
    assert math.isnan(spearman(np.arange(3.0), np.arange(3.0)).estimate)
    assert math.isnan(spearman(np.zeros(9), np.arange(9.0)).estimate)
    assert spearman(np.arange(9.0), np.arange(9.0) ** 3).estimate == pytest.approx(1.0)


@given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_equals_statsmodels(p_values: list[float]) -> None:
    known = multipletests(p_values, method="holm")[1]
    assert holm(np.array(p_values)) == pytest.approx(known, abs=1e-12)


def slow_equivalence(pairs: Pairs, margin: float) -> float:
    """Both one-sided score tests, with the likeliest rates under each hypothesis found by searching."""
    n = len(pairs)
    b, c = sum(one and not other for one, other in pairs), sum(other and not one for one, other in pairs)

    def statistic(difference: float) -> float:
        # The chances of a discordant pair are q + difference and q.
        low, high = max(0.0, -difference), (1 - difference) / 2

        def surprise(q: float) -> float:
            chances = (q + difference, q, 1 - 2 * q - difference)
            counts = (b, c, n - b - c)
            return -sum(
                count * math.log(max(chance, 1e-300))
                for count, chance in zip(counts, chances, strict=True)
                if count
            )

        q = minimize_scalar(surprise, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
        return float((b - c - n * difference) / math.sqrt(n * (2 * q + difference - difference**2)))

    return max(norm.sf(statistic(-margin)), norm.cdf(statistic(margin)))


@given(pairs=outcomes, margin=st.sampled_from([0.05, 0.2, 0.5]))
@settings(max_examples=60)
def test_equivalence_equals_two_score_tests_by_search(pairs: Pairs, margin: float) -> None:
    found = equivalence(*columns(pairs, bool), margin)
    assert found == pytest.approx(slow_equivalence(pairs, margin), abs=1e-5)


def test_equal_rates_are_equivalent_when_there_are_enough_of_them() -> None:
    few, many = np.zeros(20, dtype=np.bool_), np.zeros(200, dtype=np.bool_)
    assert equivalence(few, few, 0.05) > 0.05 > equivalence(many, many, 0.05)
    assert equivalence(~many, many, 0.05) > 0.99
    assert equivalence(many[:0], many[:0], 0.05) == 1.0


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.1])
def test_a_margin_outside_zero_and_one_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match="a margin of"):
        equivalence(np.zeros(3, dtype=np.bool_), np.zeros(3, dtype=np.bool_), margin)


def test_a_ratio_and_its_interval_are_those_of_resampled_prompts() -> None:
    rng = np.random.default_rng(3)
    whole = (rng.random(80) < 0.7).astype(float)
    part = whole * (rng.random(80) < 0.6) + (rng.random(80) < 0.05)
    found = ratio_of_differences(part, whole, np.random.default_rng(0), 4000)
    picks = rng.integers(0, 80, (4000, 80))
    by_hand = np.quantile(part[picks].mean(axis=1) / whole[picks].mean(axis=1), [0.025, 0.975])
    assert found.estimate == pytest.approx(part.mean() / whole.mean())
    assert (found.low, found.high) == pytest.approx(by_hand, abs=0.02)
    turned = ratio_of_differences(-part, -whole, np.random.default_rng(0), 4000)
    assert tuple(turned) == pytest.approx(tuple(found), abs=0.02)


@pytest.mark.parametrize("other", [[], [1.0, -1.0, 0.0, 0.0], [0.0] * 5])
def test_there_is_no_share_of_an_effect_that_can_not_be_told_from_none(other: list[float]) -> None:
    one = np.ones(len(other))
    assert nan_everywhere(ratio_of_differences(one, np.array(other), np.random.default_rng(0)))
