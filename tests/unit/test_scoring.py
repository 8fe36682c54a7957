import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steer.models.scoring import Distributions, kl_divergence, refusal_score
from tests.oracles import scores

logit = st.floats(-2000, 2000, allow_nan=False, width=32)
distributions = st.lists(logit, min_size=3, max_size=8)


@settings(max_examples=60, deadline=None)
@given(logits=distributions, data=st.data())
def test_the_refusal_score_is_the_log_odds_of_the_refusal_tokens(
    logits: list[float], data: st.DataObject
) -> None:
    tokens = data.draw(st.sets(st.integers(0, len(logits) - 1), min_size=1, max_size=len(logits) - 1))
    found = float(refusal_score(torch.tensor([logits]), tuple(tokens)))
    assert found == pytest.approx(scores.refusal_score(logits, list(tokens)), rel=1e-9, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(logit, logit), min_size=2, max_size=8))
def test_kl_is_the_sum_of_p_log_p_over_q(pairs: list[tuple[float, float]]) -> None:
    baseline, steered = ([pair[side] for pair in pairs] for side in (0, 1))
    found = float(kl_divergence(torch.tensor([baseline]), torch.tensor([steered])))
    assert found == pytest.approx(scores.kl_divergence(baseline, steered), rel=1e-9, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(triples=st.lists(st.tuples(logit, logit, logit), min_size=4, max_size=8))
def test_many_are_compared_with_one_as_each_is_alone(triples: list[tuple[float, float, float]]) -> None:
    baseline, other, steered = ([triple[side] for triple in triples] for side in (0, 1, 2))
    known = Distributions.of(torch.tensor([baseline, other]))
    odds, kl = known.compare(torch.tensor([1, 0]), torch.tensor([steered, steered]), (0, 2))
    alone = scores.refusal_score(steered, [0, 2])
    assert odds.tolist() == pytest.approx([alone] * 2, rel=1e-9, abs=1e-9)
    expected = [scores.kl_divergence(start, steered) for start in (other, baseline)]
    assert kl.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("logits", [[1e4, 0.0, -1e4], [-1e4, 1e4, 1e4], [3e38, 0.0, -3e38]])
def test_scores_stay_finite_where_float32_probabilities_are_one_and_zero(logits: list[float]) -> None:
    certain = torch.tensor([logits, logits[::-1]])
    assert torch.softmax(certain, dim=-1).amax() > 0.49
    assert refusal_score(certain, (0,)).isfinite().all()
    assert kl_divergence(certain, certain.flip(0)).isfinite().all()


def test_a_token_that_is_ruled_out_gives_infinite_odds_and_no_nan() -> None:
    only_refusal = torch.tensor([[1.0, -math.inf]])
    assert refusal_score(only_refusal, (0,)).item() == math.inf
    assert refusal_score(only_refusal, (1,)).item() == -math.inf


def test_even_odds_score_zero() -> None:
    assert refusal_score(torch.zeros(1, 4), (1, 3)).item() == pytest.approx(0, abs=1e-12)


def test_shifting_all_logits_changes_no_score() -> None:
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(refusal_score(logits, (2, 5)), refusal_score(logits + 7, (2, 5)), atol=1e-5)
    assert torch.allclose(kl_divergence(logits, logits + 7), torch.zeros(3, dtype=torch.float64), atol=1e-6)


def test_kl_of_a_distribution_with_itself_is_exactly_zero() -> None:
    logits = torch.randn(5, 300, generator=torch.Generator().manual_seed(1)) * 10
    assert torch.equal(kl_divergence(logits, logits), torch.zeros(5, dtype=torch.float64))


def test_rows_are_scored_each_on_its_own() -> None:
    rows = torch.randn(4, 11, generator=torch.Generator().manual_seed(2))
    alone = torch.cat([refusal_score(row[None], (0, 3)) for row in rows])
    assert torch.equal(refusal_score(rows, (0, 3)), alone)
