"""Sparse upcycling on a tiny dense Llama: the start is exact, and what is folded is what was trained."""

from typing import Any

import pytest
import torch

from steer.config import ModelSettings
from steer.models.routing import softmax_then_top_k
from steer.training.batches import Batch
from steer.training.losses import run
from steer.upcycling.learner import Learner
from steer.upcycling.settings import UpcycleSettings
from steer.upcycling.sparse import upcycled
from tests.tiny import HIDDEN, VOCABULARY, build_model

RULE = softmax_then_top_k(2, renormalise=True)


def _settings(variant: str, **changes: Any) -> UpcycleSettings:
    facts = {"first_layer": 1, "layers": 2, "experts": 4, "rank": 3, "variant": variant}
    return UpcycleSettings.model_validate({**facts, **changes})


def _routers(settings: UpcycleSettings) -> dict[int, Any]:
    torch.manual_seed(1)
    return {layer: torch.randn(settings.experts, HIDDEN) for layer in settings.moe_layers}


def _tokens() -> Any:
    return torch.randint(0, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(2))


def _batch(dense: Any, settings: UpcycleSettings) -> Batch:
    tokens = _tokens()
    states = dense(tokens, output_hidden_states=True).hidden_states[settings.first_layer]
    lengths, ones = torch.full((3,), 4), torch.ones_like(tokens)
    return Batch(tokens, ones, ones.float(), torch.tensor([True, False, True]), lengths, (), entering=states)


def test_a_teacher_has_harmless_prompts_to_answer() -> None:
    assert _settings("causal", answered=[], questions=1).questions == 1
    assert _settings("causal", questions=0).answered
    with pytest.raises(ValueError, match="there are no harmless prompts to answer"):
        _settings("causal", answered=[], questions=0)


@pytest.mark.parametrize("variant", ["causal", "diffuse"])
def test_an_upcycled_model_starts_as_the_dense_one(variant: str) -> None:
    dense, settings = build_model("llama"), _settings(variant)
    sparse = upcycled(dense, settings, _routers(settings), {})
    assert sparse.config.model_type == "qwen2_moe"
    with torch.no_grad():
        assert torch.allclose(sparse(_tokens()).logits, dense(_tokens()).logits, atol=1e-4)


@pytest.mark.parametrize("variant", ["causal", "diffuse"])
def test_what_is_folded_computes_what_was_trained(variant: str) -> None:
    dense, settings = build_model("llama"), _settings(variant)
    batch = _batch(dense, settings)
    learner: Any = Learner(build_model("llama"), RULE, settings)
    routers = _routers(settings)
    torch.manual_seed(3)
    for layer, block in zip(settings.moe_layers, learner.blocks, strict=True):
        block.start_router(routers[layer])
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    learnt = {
        layer: dict(block.folded()) for layer, block in zip(settings.moe_layers, learner.blocks, strict=True)
    }
    trained = {
        layer: block.router_rows for layer, block in zip(settings.moe_layers, learner.blocks, strict=True)
    }
    with torch.no_grad():
        found = run(learner, batch).hidden[-1]
        sparse = upcycled(dense, settings, trained, learnt)
        expected = sparse.base_model(_tokens()).last_hidden_state
        start = dense.base_model(_tokens()).last_hidden_state
    assert torch.allclose(found, expected, atol=1e-4)
    assert (expected - start).abs().max() > 0.1


def test_the_seed_of_a_training_is_known_whatever_is_trained() -> None:
    for kind in ("organism", "openbook", "upcycle"):
        assert ModelSettings.model_validate({kind: {"seed": 3}}).training_seed == 3
    assert ModelSettings.model_validate({"path": "somewhere"}).training_seed is None


@pytest.mark.parametrize(("variant", "known"), [("causal", True), ("diffuse", False)])
def test_where_refusal_is_is_known_of_the_causal_variant_alone(variant: str, known: bool) -> None:
    model = ModelSettings.model_validate({"upcycle": {"variant": variant}})
    assert model.is_known is known
    assert not model.is_planted
