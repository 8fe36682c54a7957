"""The parts of vLLM's model of any family, found by their types: no name of a module is spelt.

Facts that hold in vLLM 0.32 for every family whose proof passes (`proof`):

- A decoder layer returns `(written, residual)`; the residual stream that leaves it is their sum.
- A layer's attention is its child that holds an `Attention`; what it returns is added to the stream.
- Its MLP is the child that holds a `MoERunner`, or the one left that holds a row-parallel projection.
- `MoERunner.router.select_experts` turns logits into weights and indices, on every backend whose kernels
  don't route by themselves.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from steer.errors import SteerError
from steer.models.architectures import Layout, expert_count, layout_of
from steer.models.loading import LoadedModel
from steer.models.sites import LayerSites, Sites


class RankedExperts(nn.Module):
    """The experts of a layer, called as those of transformers are: tokens, index, weights."""

    def __init__(self, runner: Any) -> None:
        super().__init__()
        self._runner = [runner]  # in a list, so that it does not become a child

    def forward(
        self,
        tokens: Float[Tensor, "tokens d"],
        index: Int[Tensor, "tokens chosen"],
        weights: Float[Tensor, "tokens chosen"],
    ) -> Float[Tensor, "tokens d"]:
        """Σ_k weight_k E_k(u), summed over the ranks."""
        from vllm.distributed import tensor_model_parallel_all_reduce

        [runner] = self._runner
        wanted = runner.routed_experts.quant_method.topk_indices_dtype or torch.int32
        made = runner.routed_experts.forward_modular(
            x=tokens.contiguous(), topk_weights=weights.float(), topk_ids=index.to(wanted).contiguous()
        )
        summed: Tensor = tensor_model_parallel_all_reduce(made)
        return summed


def view_of(model: nn.Module, config: Any, dtype: torch.dtype, device: Any) -> LoadedModel:
    """The model of vLLM as checks and edits know one: its sites, its rule and its sizes.

    Raises:
        SteerError: a part of some layer is not found.
    """
    named = SimpleNamespace(config=config, dtype=dtype, device=device)
    layout = layout_of(config.model_type)
    found = enumerate(_layers(model, config))
    layers = tuple(_layer_sites(config, layer, layout, index) for index, layer in found)
    sites = Sites(base=model, embedding=_embedding(model), layers=layers)
    if bool(sites.moe_layers) != bool(expert_count(named)):
        raise _lost("the model", "layers with experts where its configuration says so")
    return LoadedModel(f"vLLM's {config.model_type}", named, None, sites, expert_count(named))


def _layers(model: nn.Module, config: Any) -> list[nn.Module]:
    from vllm.model_executor.layers.attention.attention import Attention

    for module in model.modules():
        listed = isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers
        if listed and all(_holds(layer, Attention) for layer in module.children()):
            return list(module.children())
    raise _lost("the model", f"a list of {config.num_hidden_layers} layers with an `Attention` in each")


def _embedding(model: nn.Module) -> nn.Module:
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding) and not isinstance(module, ParallelLMHead):
            return module  # type: ignore[no-any-return]
    raise _lost("the model", "a `VocabParallelEmbedding`")


def _layer_sites(config: Any, layer: nn.Module, layout: Layout, index: int) -> LayerSites:
    from vllm.model_executor.layers.attention.attention import Attention
    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
    from vllm.model_executor.layers.linear import RowParallelLinear

    where = f"layer {index}"
    attention = _only(where, "`Attention`", (part for part in layer.children() if _holds(part, Attention)))
    heads = _only(where, "projection of the heads", _inside(attention, RowParallelLinear))
    rest = [part for part in layer.children() if part is not attention]
    sparse = [part for part in rest if _holds(part, MoERunner)]
    dense = (part for part in rest if _holds(part, RowParallelLinear))
    mlp = _only(where, "MLP", iter(sparse) if sparse else dense)
    runner: Any = _only(where, "`MoERunner`", _inside(mlp, MoERunner)) if sparse else None
    return LayerSites(
        layer=layer,
        attention=attention,
        attention_write=attention,
        heads=heads,
        mlp=mlp,
        mlp_write=mlp,
        router=runner,
        experts=RankedExperts(runner) if runner else None,
        # A bias that rules choose by has the same name in the routers of vLLM.
        rule=layout.rule(config, runner.router) if runner and layout.rule else None,
    )


def _inside(module: nn.Module, kind: type) -> Iterator[nn.Module]:
    return (part for part in module.modules() if isinstance(part, kind))


def _holds(module: nn.Module, kind: type) -> bool:
    return any(True for _ in _inside(module, kind))


def _only(where: str, what: str, found: Iterator[nn.Module]) -> nn.Module:
    parts = list(found)
    if len(parts) != 1:
        raise _lost(where, f"one {what} ({len(parts)} are there)")
    return parts[0]


def _lost(where: str, what: str) -> SteerError:
    return SteerError(
        f"engine `vllm`, {where}",
        f"lacks {what}",
        "run the model with `engine: transformers`; this vLLM lays the family out otherwise",
    )
