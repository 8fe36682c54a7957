from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from steer.errors import SteerError
from steer.models.interventions import Weighting
from steer.models.loading import LoadedModel
from steer.models.resuming import record, resume
from steer.selection.candidates import Question
from steer.selection.experts_estimate import estimates, gradients
from steer.selection.experts_exact import Candidate, Place, exact_scores
from tests.oracles import forward
from tests.oracles.adding import adding
from tests.tiny import EXPERTS, HIDDEN, MOE_FAMILIES

TEXTS = ("a red kite", "nine winter evenings, or some", "tea", "seven stones up")
REFUSAL, P = (40, 41), 2
WEIGHTINGS: tuple[Weighting, ...] = ("routed", "full", "one")
Tiny = Callable[[str], LoadedModel]


def _questions(loaded: LoadedModel) -> list[Question]:
    return [Question(f"q{n}", text, loaded.encode(text)) for n, text in enumerate(TEXTS)]


def _directions(loaded: LoadedModel, scale: float = 1.0) -> Tensor:
    shape = (len(loaded.sites.moe_layers), EXPERTS, P, HIDDEN)
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)) * scale


def _logits(loaded: LoadedModel, tokens: list[int]) -> Tensor:
    logits: Tensor = loaded.model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
    return logits


def _slope(
    loaded: LoadedModel, tokens: list[int], layer: int, vectors: dict[int, Tensor], weighting: str
) -> float:
    """Derivative of one prompt's refusal score by the coefficient of an edit, at zero."""
    coefficient = torch.zeros((), requires_grad=True)
    with adding(loaded, layer, vectors, coefficient, weighting):
        p = torch.softmax(_logits(loaded, tokens).double(), dim=0)
        yes = p[list(REFUSAL)].sum()
        (slope,) = torch.autograd.grad((yes / (1 - yes)).log(), coefficient)
    return float(slope)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_estimates_are_the_derivatives_by_the_coefficient(
    tiny: Tiny, family: str, weighting: Weighting
) -> None:
    loaded = tiny(family)
    questions, directions = _questions(loaded), _directions(loaded)
    found = estimates(gradients(loaded, questions, REFUSAL, weighting, batch_size=3), directions)
    for row, layer in enumerate(loaded.sites.moe_layers):
        for expert in (1, 6):
            vectors = {expert: directions[row, expert, 0]}
            slopes = [_slope(loaded, q.tokens, layer, vectors, weighting) for q in questions]
            expected = sum(slopes) / len(slopes)
            assert float(found[row, expert, 0]) == pytest.approx(expected, rel=1e-3, abs=1e-5)
        everyone = {expert: directions[row, expert, 1] for expert in range(EXPERTS)}
        slopes = [_slope(loaded, q.tokens, layer, everyone, weighting) for q in questions]
        expected = sum(slopes) / len(slopes)
        assert float(found[row, :, 1].sum()) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def _candidates(loaded: LoadedModel, directions: Tensor) -> list[Candidate]:
    """Candidates of every layer, of one expert and of all, in no order of layers."""
    found = []
    for row, layer in enumerate(loaded.sites.moe_layers):
        for position, coefficient in ((0, 1.5), (1, -0.5)):
            for expert in (2, 5):
                place = Place(layer, expert, position - P)
                found.append(Candidate(place, coefficient, directions[row, [expert], position]))
            found.append(
                Candidate(Place(layer, None, position - P), coefficient, directions[row, :, position])
            )
    return found[::2] + found[1::2]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_scores_are_those_of_a_full_pass_for_each_candidate(
    tiny: Tiny, family: str, weighting: Weighting
) -> None:
    loaded = tiny(family)
    questions, candidates = _questions(loaded), _candidates(loaded, _directions(loaded))
    scores, divergences = exact_scores(loaded, questions, candidates, REFUSAL, weighting, batch_size=3)
    with torch.inference_mode():
        for row, candidate in enumerate(candidates):
            expert = candidate.place.expert
            names = range(EXPERTS) if expert is None else [expert]
            vectors = dict(zip(names, candidate.direction, strict=True))
            for column, question in enumerate(questions):
                before = _logits(loaded, question.tokens)
                with adding(loaded, candidate.place.layer, vectors, candidate.coefficient, weighting):
                    after = _logits(loaded, question.tokens)
                expected = forward.refusal_score(after, REFUSAL)
                assert float(scores[row, column]) == pytest.approx(expected, rel=1e-4, abs=1e-4)
                expected = forward.kl(before, after)
                assert float(divergences[row, column]) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_the_size_of_a_batch_changes_nothing_but_the_last_bits(tiny: Tiny) -> None:
    loaded = tiny("olmoe")
    questions, candidates = _questions(loaded), _candidates(loaded, _directions(loaded))
    one, other = (exact_scores(loaded, questions, candidates, REFUSAL, "routed", size) for size in (1, 64))
    for found, expected in zip(one, other, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_layers_below_the_edit_run_once_a_batch(tiny: Tiny) -> None:
    loaded = tiny("olmoe")
    calls = [0] * loaded.layers
    handles = []
    for layer, sites in enumerate(loaded.sites.layers):

        def count(*_: object, layer: int = layer) -> None:
            calls[layer] += 1

        handles.append(sites.router.register_forward_hook(count))  # type: ignore[union-attr]
    candidates = [one for one in _candidates(loaded, _directions(loaded)) if one.place.layer == 2]
    exact_scores(loaded, _questions(loaded), candidates, REFUSAL, "routed", batch_size=4)
    for handle in handles:
        handle.remove()
    assert calls == [1, 1, 1, 1 + len(candidates)]


@pytest.mark.parametrize("family", [*MOE_FAMILIES, "gpt_oss", "deepseek_v3", "granitemoe"])
def test_a_pass_resumed_without_an_edit_is_the_pass_itself(tiny: Tiny, family: str) -> None:
    loaded = tiny(family)
    batch = loaded.batch([question.tokens for question in _questions(loaded)])
    layers, every = loaded.sites.moe_layers, torch.arange(len(batch.input_ids))
    unsteered = record(loaded, batch, layers, "routed")
    for layer, recorded in unsteered.layers.items():
        assert ((recorded.weights > 0).sum(dim=-1) == loaded.top_k * batch.attention_mask).all()
        whole = recorded.leaving.shape[1]
        for rows, width in ((every, whole), (torch.tensor([2]), 1), (torch.tensor([1, 0, 3, 1]), whole - 3)):
            found = resume(loaded, unsteered, rows, layer, recorded.leaving[rows, -width:])
            torch.testing.assert_close(found, unsteered.logits[rows], rtol=1e-5, atol=1e-5)


def test_resuming_leaves_no_trace(tiny: Tiny) -> None:
    loaded = tiny("qwen3_moe")
    batch = loaded.batch([question.tokens for question in _questions(loaded)])
    before = loaded.next_token_logits(batch)
    unsteered = record(loaded, batch, [0], "routed")
    for leaving in (unsteered.layers[0].leaving[:1, -3:], torch.zeros(1, 2, 3)):
        with nullcontext() if leaving.shape[-1] == HIDDEN else pytest.raises(RuntimeError):
            resume(loaded, unsteered, torch.tensor([0]), 0, leaving)
        assert torch.equal(loaded.next_token_logits(batch), before)


def test_the_last_layer_attends_for_the_last_token_alone(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny("olmoe")
    batch = loaded.batch([question.tokens for question in _questions(loaded)])
    unsteered = record(loaded, batch, [1], "routed")
    widths: list[int] = []
    kernel = functional.scaled_dot_product_attention

    def counted(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        widths.append(query.shape[2])
        return kernel(query, *args, **kwargs)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", counted)
    every, whole = torch.arange(len(TEXTS)), batch.input_ids.shape[1]
    resume(loaded, unsteered, every, 1, unsteered.layers[1].leaving)
    loaded.next_token_logits(batch)
    assert widths == [whole] * (loaded.layers - 3) + [1] + [whole] * loaded.layers


def test_tokens_before_the_first_edited_one_do_not_run_again(tiny: Tiny) -> None:
    loaded = tiny("olmoe")
    questions, directions = _questions(loaded)[:1], _directions(loaded)
    batch = loaded.batch([questions[0].tokens])
    chosen = record(loaded, batch, [1], "routed").layers[1].weights[0] != 0
    last = loaded.sites.layers[2].router
    for expert in range(EXPERTS):
        widths: list[int] = []
        assert last is not None
        handle = last.register_forward_hook(lambda _, args, __, widths=widths: widths.append(len(args[0])))
        candidate = Candidate(Place(1, expert, -1), 2.0, directions[1, [expert], 0])
        score, kl = exact_scores(loaded, questions, [candidate], REFUSAL, "routed", 4)
        handle.remove()
        columns = chosen[:, expert].nonzero().flatten().tolist()
        # The unsteered pass comes first; where the expert is never chosen it is the only one.
        assert widths[1:] == [batch.input_ids.shape[1] - columns[0]] if columns else not widths[1:]
        assert columns or (float(kl) == 0 and float(score) == pytest.approx(_score(loaded, questions[0])))


def _score(loaded: LoadedModel, question: Question) -> float:
    with torch.inference_mode():
        return forward.refusal_score(_logits(loaded, question.tokens), REFUSAL)


def test_a_layer_without_experts_can_not_be_edited(tiny: Tiny) -> None:
    loaded = tiny("llama")
    batch = loaded.batch([question.tokens for question in _questions(loaded)])
    with pytest.raises(SteerError, match="layer 1: its MoE block can't be edited"):
        record(loaded, batch, [1], "routed")
