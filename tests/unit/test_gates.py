import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from steer.errors import SteerError
from steer.models.gates import gate_gradients, gated, target_log_probability
from steer.models.loading import LoadedModel
from steer.models.scoring import refusal_score
from tests.tiny import EXPERTS, MOE_FAMILIES

PROMPTS = ("a red kite", "nine winter evenings", "tea")
REFUSAL = (10, 40, 77)
# A smaller step would measure the rounding of routers to float32.
STEP = 5e-4
Tiny = Callable[[str], LoadedModel]


def _wide(loaded: LoadedModel) -> LoadedModel:
    """The model in float64, for differences that rounding does not drown."""
    model = copy.deepcopy(loaded.model).double()
    # The fused kernel of experts knows no float64.
    model.set_experts_implementation("eager")
    layers = tuple(
        replace(
            sites,
            layer=layer,
            mlp=layer.mlp,
            router=layer.mlp.gate if sites.router is not None else None,
            experts=layer.mlp.experts if sites.experts is not None else None,
        )
        for sites, layer in zip(loaded.sites.layers, model.model.layers, strict=True)
    )
    return replace(loaded, model=model, sites=replace(loaded.sites, base=model.model, layers=layers))


def _score(logits: Tensor) -> Tensor:
    return refusal_score(logits[:, -1], REFUSAL)


def _by_differences(loaded: LoadedModel, ids: list[int], layer: int, expert: int) -> float | None:
    """Central difference of one prompt's score, the expert's own output matrix scaled by hand.

    None where the two sides differ: a choice further up flips there, and the score jumps.
    """
    matrix: Any = loaded.model.model.layers[layer].mlp.experts.down_proj
    kept = matrix.data[expert].clone()

    def score(scale: float) -> float:
        matrix.data[expert] = kept * scale
        with torch.no_grad():
            return float(_score(loaded.model(input_ids=torch.tensor([ids])).logits))

    lower, middle, upper = (score(scale) / STEP for scale in (1 - STEP, 1.0, 1 + STEP))
    matrix.data[expert] = kept
    smooth = abs((upper - middle) - (middle - lower)) < 0.1
    return (upper - lower) / 2 if smooth else None


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_gradients_are_those_of_scaling_one_expert_of_one_prompt_by_hand(tiny: Tiny, family: str) -> None:
    loaded = _wide(tiny(family))
    tokens = [loaded.encode(text) for text in PROMPTS]
    scores, gradients = gate_gradients(loaded, loaded.batch(tokens), _score)
    moe_layers = loaded.sites.moe_layers
    assert gradients.shape == (len(PROMPTS), len(moe_layers), EXPERTS)
    compared = 0
    for row, ids in enumerate(tokens):
        with torch.no_grad():
            alone = _score(loaded.model(input_ids=torch.tensor([ids])).logits)
        assert float(scores[row]) == pytest.approx(float(alone), rel=1e-6)
        for place, layer in enumerate(moe_layers):
            for expert in range(EXPERTS):
                by_hand = _by_differences(loaded, ids, layer, expert)
                if by_hand is not None:
                    compared += 1
                    assert float(gradients[row, place, expert]) == pytest.approx(by_hand, rel=5e-3, abs=5e-3)
    assert compared > 0.9 * gradients.numel()
    assert float(gradients.abs().max()) > 0.01


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_gates_of_one_change_no_bit_and_are_removed(tiny: Tiny, family: str) -> None:
    loaded = tiny(family)
    batch = loaded.batch([loaded.encode(text) for text in PROMPTS])
    before = loaded.next_token_logits(batch)
    with gated(loaded, len(PROMPTS)) as gates:
        assert torch.equal(loaded.next_token_logits(batch), before)
        with torch.no_grad():
            gates[1, -1] = 0.5
        moved = loaded.next_token_logits(batch)
        assert [torch.equal(a, b) for a, b in zip(moved, before, strict=True)] == [True, False, True]
        with torch.no_grad():
            gates[1] = 0.5
        moved = loaded.next_token_logits(batch)
    # Below other routers a gate moves tokens of its row to other experts; products of matrices of another
    # shape then have other last bits in the other rows as well, on some processors.
    assert torch.allclose(moved[::2], before[::2], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(moved[1], before[1], rtol=1e-5, atol=1e-6)
    assert torch.equal(loaded.next_token_logits(batch), before)


def test_a_dense_model_has_no_gates(tiny: Tiny) -> None:
    loaded = tiny("llama")
    with pytest.raises(SteerError, match="no MoE layers"), gated(loaded, 1):
        pass


def test_the_probability_of_a_target_is_the_mean_over_its_own_tokens() -> None:
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    targets = [[3, 1], [6]]
    log_p = logits.log_softmax(-1)
    expected = [(log_p[0, 2, 3] + log_p[0, 3, 1]) / 2, log_p[1, 3, 6]]
    found = target_log_probability(logits, targets)
    assert found.tolist() == pytest.approx([float(value) for value in expected], rel=1e-6)
