import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steer.errors import SteerError
from steer.models import architectures
from steer.models.architectures import LAYOUTS
from steer.models.loading import LoadedModel, load_checkpoint
from steer.models.proof import probe, prove, pushed_layers
from steer.models.routing import Rule, softmax_then_top_k
from steer.models.sites import LayerSites, resolve
from tests.tiny import MOE_FAMILIES

Checkpoint = Callable[[str], Path]
Tiny = Callable[[str], LoadedModel]


def with_layer(loaded: LoadedModel, index: int, **changes: nn.Module) -> LoadedModel:
    """The same model with other modules claimed for one layer."""
    layers: list[LayerSites] = list(loaded.sites.layers)
    layers[index] = replace(layers[index], **changes)
    return replace(loaded, sites=replace(loaded.sites, layers=tuple(layers)))


def with_rule(loaded: LoadedModel, rule: Rule) -> LoadedModel:
    """The same model with another routing rule claimed for every layer."""
    layers = tuple(replace(layer, rule=rule if layer.router else None) for layer in loaded.sites.layers)
    return replace(loaded, sites=replace(loaded.sites, layers=layers))


def rolled_experts(experts: nn.Module) -> nn.Module:
    """The same experts under each other's numbers."""
    rolled = copy.deepcopy(experts)
    for parameter in rolled.parameters():
        parameter.copy_(parameter.roll(1, dims=0))
    return rolled


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_layout_of_every_family_is_proved(every_family: str, dtype: str, checkpoint: Checkpoint) -> None:
    prove(load_checkpoint(checkpoint(every_family), dtype))


def test_the_proof_leaves_the_model_as_it_was(any_family: str, checkpoint: Checkpoint) -> None:
    loaded = load_checkpoint(checkpoint(any_family))
    before = loaded.next_token_logits(probe(loaded))
    prove(loaded)
    assert torch.equal(loaded.next_token_logits(probe(loaded)), before)
    assert not any(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in loaded.model.modules())


def test_what_every_token_shares_is_part_of_a_block(checkpoint: Checkpoint) -> None:
    for missing in ({"shared": None}, {"shared_gate": None}):
        loaded = load_checkpoint(checkpoint("qwen2_moe"))
        with pytest.raises(SteerError, match=r"layer 0, router: .*not the weighted sum of its experts"):
            prove(with_layer(loaded, 0, **missing))  # type: ignore[arg-type]


def test_a_correction_of_another_layer_is_noticed(checkpoint: Checkpoint) -> None:
    loaded = load_checkpoint(checkpoint("deepseek_v3"))
    first = loaded.sites.layers[loaded.sites.moe_layers[0]].rule
    with pytest.raises(SteerError, match=r"layer \d, router: .*does not give the router's own choice"):
        prove(with_layer(loaded, loaded.sites.moe_layers[-1], rule=first))  # type: ignore[arg-type]


def test_an_order_that_the_router_does_not_return_is_noticed(checkpoint: Checkpoint) -> None:
    loaded = load_checkpoint(checkpoint("granitemoe"))
    with pytest.raises(SteerError, match=r"layer 0, router: .*tensors of shapes"):
        prove(with_layer(loaded, 0, returns=("logits", "weights", "index")))  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", ["embedding_scale", "write_scale"])
def test_a_multiplier_that_is_left_out_is_noticed(scale: str, checkpoint: Checkpoint) -> None:
    loaded = load_checkpoint(checkpoint("granitemoe"))
    claims = {"embedding_scale": "not what enters the first layer", "write_scale": "don't add up"}
    with pytest.raises(SteerError, match=claims[scale]):
        prove(replace(loaded, sites=replace(loaded.sites, **{scale: 1.0})))  # type: ignore[arg-type]


def test_layers_that_are_pushed_are_the_first_and_the_last_of_every_kind(tiny: Tiny) -> None:
    assert pushed_layers(tiny("olmoe")) == [0, 3]
    assert pushed_layers(tiny("qwen3_moe_mixed")) == [0, 1, 2, 3]
    assert pushed_layers(tiny("deepseek_v2")) == [0, 1, 3]


WRONG_LAYOUTS: list[tuple[str, dict[str, str], str]] = [
    ("llama", {"attention_write": "input_layernorm"}, "layer 0: .*don't add up to the residual's gain"),
    (
        "olmoe",
        {"mlp_write": "post_attention_layernorm"},
        "layer 0, router: .*not called once and in its turn",
    ),
    ("qwen3", {"mlp_write": "post_attention_layernorm"}, "layer 0: .*don't add up to the residual's gain"),
    ("qwen3", {"mlp_write": "self_attn"}, "layer 0: .*don't add up"),
    (
        "llama",
        {"attention_write": "mlp", "mlp_write": "self_attn"},
        "layer 0, attention: .*not called once and in its turn: layer 0, MLP is",
    ),
    ("qwen3", {"attention_write": "self_attn.q_norm"}, r"layer 0, attention: .*tensors of shapes"),
    ("olmoe", {"mlp_write": "mlp.experts"}, r"layer 0, MLP: .*tensors of shapes \[\(16, 32\)\]"),
    ("olmoe", {"router": "experts"}, "layer 0, router: .*tensors of shapes"),
    ("qwen3_moe_mixed", {"router": "experts"}, "layer 1, router: .*tensors of shapes"),
    ("llama", {"embedding": "layers.0.input_layernorm"}, "embedding: .*not what enters the first layer"),
    ("llama", {"embedding": "norm"}, "embedding: .*not called once and in its turn"),
]


@pytest.mark.parametrize(("family", "changes", "claim"), WRONG_LAYOUTS)
def test_a_layout_that_names_the_wrong_module_fails(
    family: str, changes: dict[str, str], claim: str, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(family)
    model_type = family.removesuffix("_mixed")
    monkeypatch.setitem(architectures.LAYOUTS, model_type, replace(LAYOUTS[model_type], **changes))  # type: ignore[arg-type]
    with pytest.raises(
        SteerError, match=rf"family {model_type}\), {claim}(.|\n)*next: mend the family's row"
    ):
        prove(load_checkpoint(folder))


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_a_rule_that_renormalises_where_the_router_does_not_fails_and_so_the_other_way(
    family: str, checkpoint: Checkpoint
) -> None:
    loaded = load_checkpoint(checkpoint(family))
    flipped = softmax_then_top_k(loaded.top_k, renormalise=not loaded.model.config.norm_topk_prob)
    with pytest.raises(SteerError, match=rf"layer \d, router: .*`{flipped.name}` does not give the router's"):
        prove(with_rule(loaded, flipped))


def test_a_rule_with_another_number_of_experts_fails(checkpoint: Checkpoint) -> None:
    loaded = load_checkpoint(checkpoint("olmoe"))
    rule = softmax_then_top_k(loaded.top_k + 1, renormalise=False)
    with pytest.raises(SteerError, match=r"layer 0, router: .*tensors of shapes"):
        prove(with_rule(loaded, rule))


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_experts_under_the_wrong_numbers_or_of_another_layer_fail(
    family: str, checkpoint: Checkpoint
) -> None:
    loaded = load_checkpoint(checkpoint(family))
    first, last = (loaded.sites.layers[loaded.sites.moe_layers[end]].experts for end in (0, -1))
    assert first is not None
    assert last is not None
    layer = loaded.sites.moe_layers[-1]
    for wrong in (rolled_experts(last), first):
        with pytest.raises(SteerError, match=r"not called once and in its turn: layer \d, (experts|MLP) is"):
            prove(with_layer(loaded, layer, experts=wrong))


class _Deaf(nn.Module):
    """A MoE block that asks its router and does not listen: it routes in its own way."""

    def __init__(self, block: Any, *, ask: bool) -> None:
        super().__init__()
        self.gate, self.experts, self.ask = block.gate, block.experts, ask

    def forward(self, hidden_states: Tensor) -> Tensor:
        tokens = hidden_states.flatten(0, 1)
        if self.ask:
            self.gate(tokens)
        _, weights, index = self.route(tokens)
        out: Tensor = self.experts(tokens, index, weights).view_as(hidden_states)
        return out

    def route(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        routed: tuple[Tensor, Tensor, Tensor] = type(self.gate).forward(self.gate, tokens)
        return routed


class _Stubborn(_Deaf):
    """A MoE block that always takes its first experts."""

    def route(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, weights, index = super().route(tokens)
        return logits, weights, torch.arange(index.shape[-1]).expand_as(index)


@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe_mixed"])
@pytest.mark.parametrize(
    ("make", "claim"),
    [
        (lambda block: _Deaf(block, ask=True), "reversing its preference leaves the logits as they were"),
        (lambda block: _Deaf(block, ask=False), "is not called once and in its turn"),
        (lambda block: _Stubborn(block, ask=True), "experts are not called with its choice"),
    ],
    ids=["deaf", "silent", "stubborn"],
)
def test_a_block_that_ignores_its_router_fails(
    family: str, make: Callable[[Any], nn.Module], claim: str, checkpoint: Checkpoint
) -> None:
    loaded = load_checkpoint(checkpoint(family))
    layer = loaded.model.model.layers[3]
    layer.mlp = make(layer.mlp)
    changed = replace(loaded, sites=resolve(loaded.model))
    with pytest.raises(SteerError, match=f"layer 3, router: .*{claim}"):
        prove(changed)


def test_a_part_that_was_replaced_after_it_was_found_fails(any_family: str, checkpoint: Checkpoint) -> None:
    loaded = load_checkpoint(checkpoint(any_family))
    layer = loaded.model.model.layers[2]
    layer.self_attn = copy.deepcopy(layer.self_attn)
    with pytest.raises(SteerError, match=r"layer 2, attention: .*not called once and in its turn"):
        prove(loaded)


def test_writes_that_can_not_reach_the_logits_fail(any_family: str, checkpoint: Checkpoint) -> None:
    loaded = load_checkpoint(checkpoint(any_family))
    loaded.model.lm_head.weight.zero_()
    with pytest.raises(SteerError, match=r"layer 0, attention: .*leaves the logits as they were"):
        prove(loaded)


def test_logits_that_overflow_are_told_from_a_wrong_layout(checkpoint: Checkpoint) -> None:
    loaded = load_checkpoint(checkpoint("olmoe"), "float16")
    loaded.model.lm_head.weight.fill_(6e4)
    with pytest.raises(SteerError, match=r"NaN or infinity in torch\.float16"):
        prove(loaded)


def test_numbers_of_many_thousands_in_the_residual_do_not_hide_its_gain(checkpoint: Checkpoint) -> None:
    """Trained models hold such numbers; written to, they round off more than a small write is worth."""
    loaded = load_checkpoint(checkpoint("olmoe"))
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[:, 3] = 3e5
    prove(loaded)
    with pytest.raises(SteerError, match="don't add up"):
        prove(replace(loaded, sites=replace(loaded.sites, write_scale=1.01)))
