"""Where each model family keeps its parts. The only module that spells their names.

A family is a row of `LAYOUTS`, keyed by the `model_type` of its configuration. Paths are attribute
paths: from the base model for the embedding and the layers, from a decoder layer for attention and
MLP, from the MLP for router and experts.

Facts that hold for every row (transformers 5.19, modelling files of the families named):

- A decoder layer takes the residual stream as its first positional argument and returns it.
- The MoE block of a sparse layer is called with the block input; its router flattens tokens to `[T, d]`
  and returns logits `[T, E]`, weights `[T, K]` and index `[T, K]`, in the order that the row says. The block
  ignores the logits.
- The experts module is called positionally: `experts(tokens [T, d], index [T, K], weights [T, K])`;
  it reads K from the index, so one expert alone is `K = 1` with weight one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import torch
from accelerate.utils import align_module_device
from jaxtyping import Float, Int
from torch import Tensor, nn

from steer.catalogue import EXPERT_KEYS
from steer.errors import SteerError
from steer.models.routing import (
    Groups,
    Rule,
    sigmoid_then_top_k,
    softmax_then_top_k,
    sparsemixer,
    top_k_then_softmax,
)


@dataclass(frozen=True)
class Layout:
    """Attribute paths and routing rule of one family.

    Attributes:
        mlp: MLP or MoE block of a decoder layer.
        attention_write: module whose output is what attention adds to the residual stream
            (a norm behind the attention, in families that normalise what they write).
        mlp_write: module whose output is what the MLP adds to the residual stream.
        mlp_norm: norm through which the MLP reads the residual stream, if it has one.
        heads: attention's last projection, whose input is the heads' outputs side by side.
        router: router inside a MoE block; None in dense families.
        experts: experts module inside a MoE block.
        shared: module inside a MoE block that every token passes, whose output is added to the experts'.
        shared_gate: projection to one number inside a MoE block; its sigmoid multiplies the shared output.
        returns: what the router returns, in its order.
        rule: makes the routing rule of a layer from the model's configuration and the layer's router.
        embedding_scale: setting that the embedding's output is multiplied with before the first layer.
        write_scale: setting that every write is multiplied with before it is added.
    """

    mlp: str = "mlp"
    attention_write: str = "self_attn"
    mlp_write: str = "mlp"
    mlp_norm: str | None = "post_attention_layernorm"
    heads: str = "self_attn.o_proj"
    embedding: str = "embed_tokens"
    layers: str = "layers"
    router: str | None = None
    experts: str | None = None
    shared: str | None = None
    shared_gate: str | None = None
    returns: tuple[str, str, str] = ("logits", "weights", "index")
    rule: Callable[[Any, nn.Module], Rule] | None = None
    embedding_scale: str | None = None
    write_scale: str | None = None


def _softmax_top_k(config: Any, _router: nn.Module) -> Rule:
    return softmax_then_top_k(config.num_experts_per_tok, renormalise=config.norm_topk_prob)


def _renormalised(config: Any, _router: nn.Module) -> Rule:
    return softmax_then_top_k(config.num_experts_per_tok, renormalise=True)


def _chosen_softmax(config: Any, _router: nn.Module) -> Rule:
    return top_k_then_softmax(config.num_experts_per_tok, widen=False)


def _chosen_wide_softmax(config: Any, _router: nn.Module) -> Rule:
    return top_k_then_softmax(config.num_experts_per_tok, widen=True)


def _sparsemixer(config: Any, _router: nn.Module) -> Rule:
    return sparsemixer(config.router_jitter_noise)


def _groups(config: Any, strongest: int) -> Groups | None:
    count = config.n_group or 1
    return Groups(count, config.topk_group, strongest) if count > 1 else None


def _softmax_groups(config: Any, _router: nn.Module) -> Rule:
    groups = _groups(config, 1) if config.topk_method == "group_limited_greedy" else None
    scaling = config.routed_scaling_factor
    return softmax_then_top_k(config.num_experts_per_tok, renormalise=False, scaling=scaling, groups=groups)


def _sigmoid_groups(config: Any, router: Any) -> Rule:
    return sigmoid_then_top_k(
        config.num_experts_per_tok,
        router.e_score_correction_bias,
        renormalise=config.norm_topk_prob,
        scaling=config.routed_scaling_factor,
        groups=_groups(config, 2),
    )


_MOE = Layout(router="gate", experts="experts")
_SHARED = replace(_MOE, shared="shared_experts")
_DEEPSEEK = replace(_SHARED, rule=_sigmoid_groups)
_GRANITE = replace(
    _MOE,
    mlp="block_sparse_moe",
    mlp_write="block_sparse_moe",
    router="router",
    returns=("index", "weights", "logits"),
    rule=_chosen_wide_softmax,
    embedding_scale="embedding_multiplier",
    write_scale="residual_multiplier",
)
# Families that normalise what attention and MLP write.
_NORMALISED = Layout(
    attention_write="post_attention_layernorm",
    mlp_write="post_feedforward_layernorm",
    mlp_norm="pre_feedforward_layernorm",
)

LAYOUTS: dict[str, Layout] = {
    "llama": Layout(),
    "qwen3": Layout(),
    "gemma": Layout(),
    "gemma2": _NORMALISED,
    "gemma3_text": _NORMALISED,
    "olmoe": replace(_MOE, rule=_softmax_top_k),
    "mixtral": replace(_MOE, rule=_renormalised),
    "gpt_oss": replace(_MOE, router="router", rule=_chosen_softmax),
    "qwen2_moe": replace(_MOE, shared="shared_expert", shared_gate="shared_expert_gate", rule=_softmax_top_k),
    "qwen3_moe": replace(_MOE, rule=_softmax_top_k),
    "phimoe": replace(_MOE, router="router", rule=_sparsemixer),
    "deepseek_v2": replace(_SHARED, rule=_softmax_groups),
    "deepseek_v3": _DEEPSEEK,
    "glm4_moe": _DEEPSEEK,
    "granitemoe": _GRANITE,
    # Further families that the same data covers (data/families.csv).
    "axk2": _DEEPSEEK,
    "deepseek_v32": _DEEPSEEK,
    "dots1": _DEEPSEEK,
    "exaone_moe": _DEEPSEEK,
    "flex_olmo": replace(
        _MOE,
        attention_write="post_attention_layernorm",
        mlp_write="post_feedforward_layernorm",
        mlp_norm=None,
        rule=_softmax_top_k,
    ),
    "glm4_moe_lite": _DEEPSEEK,
    "glm_moe_dsa": _DEEPSEEK,
    "mellum": replace(_MOE, rule=_softmax_top_k),
    "mimo_v2_flash": replace(_MOE, rule=_sigmoid_groups),
    "solar_open": _DEEPSEEK,
}


def layout_of(model_type: str) -> Layout:
    """The row of a family.

    Raises:
        SteerError: the family has no row.
    """
    if model_type not in LAYOUTS:
        raise SteerError(
            f"model family `{model_type}`",
            f"is not supported; supported: {', '.join(sorted(LAYOUTS))}",
            "add a row to LAYOUTS in steer/models/architectures.py; the proof at load checks it",
        )
    return LAYOUTS[model_type]


def expert_count(model: Any) -> int:
    """Number of routed experts in a MoE layer; 0 in a dense model."""
    return int(next((count for name in EXPERT_KEYS if (count := getattr(model.config, name, None))), 0))


def shared_count(model: Any) -> int:
    """Number of experts in a MoE layer that every token passes; those fused into one module count apart."""
    if layout_of(model.config.model_type).shared is None:
        return 0
    return int(getattr(model.config, "n_shared_experts", None) or 1)


def head_count(model: Any) -> int:
    """Number of attention heads of a layer (query heads, where keys are shared)."""
    return int(model.config.num_attention_heads)


def chosen_output(
    experts: nn.Module, tokens: Float[Tensor, "calls d"], index: Int[Tensor, " calls"]
) -> Float[Tensor, "calls d"]:
    """E_e(u) of one expert for each token, without its routing weight, and without setting off any hook."""
    weight = torch.ones(len(tokens), 1, dtype=tokens.dtype, device=tokens.device)
    return experts.forward(tokens, index[:, None], weight)  # type: ignore[no-any-return]


def expert_output(
    experts: nn.Module, tokens: Float[Tensor, "tokens d"], expert: int
) -> Float[Tensor, "tokens d"]:
    """E_e(u) of one expert on every token, without its routing weight."""
    index: Int[Tensor, "tokens 1"] = torch.full((len(tokens), 1), expert, device=tokens.device)
    weight = torch.ones(len(tokens), 1, dtype=tokens.dtype, device=tokens.device)
    return experts(tokens, index, weight)  # type: ignore[no-any-return]


def router_rows(router: nn.Module) -> Float[Tensor, "experts d"]:
    """The row of each expert in a router's weights: what a block input is multiplied with for its logit."""
    # Where weights are kept off the device, they are brought there for the length of the block.
    with align_module_device(router):
        rows = router.weight
        assert isinstance(rows, Tensor)
        return rows.detach().clone()


@dataclass(frozen=True)
class FeedForward:
    """The weights of a gated feed-forward network: down(activation(gate(u)) · up(u))."""

    gate: Float[Tensor, "inner d"]
    up: Float[Tensor, "inner d"]
    down: Float[Tensor, "d inner"]


def feed_forward(mlp: Any) -> FeedForward:
    """The weights of a dense layer's gated feed-forward network."""
    return FeedForward(mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight)


def write_expert(experts: Any, expert: int, weights: FeedForward) -> None:
    """Put the weights of a feed-forward network into one expert of a stack (gate and up share a tensor)."""
    with torch.no_grad():
        experts.gate_up_proj[expert] = torch.cat([weights.gate, weights.up])
        experts.down_proj[expert] = weights.down


def keep_layers(model: Any, kept: slice) -> None:
    """Leave some of a model's decoder layers in it, in their order."""
    setattr(model.base_model, layout_of(model.config.model_type).layers, _stack(model)[kept])


def replace_feed_forward(model: Any, layer: int, block: nn.Module) -> None:
    """Put another module into the place of a decoder layer's feed-forward network."""
    setattr(_stack(model)[layer], layout_of(model.config.model_type).mlp, block)


def _stack(model: Any) -> Any:
    return attrgetter(layout_of(model.config.model_type).layers)(model.base_model)
