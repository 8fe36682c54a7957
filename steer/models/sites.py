"""The modules of a loaded model that are read and edited, found by its family's row."""

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from steer.errors import SteerError
from steer.models.architectures import Layout, expert_count, layout_of
from steer.models.routing import Rule

Routed = tuple[Float[Tensor, "tokens experts"], Float[Tensor, "tokens chosen"], Int[Tensor, "tokens chosen"]]


@dataclass(frozen=True)
class LayerSites:
    """The modules of one decoder layer; those of a MoE block, and its rule, are None where it is dense.

    Attributes:
        attention: what makes queries, keys and values, and holds `heads`.
        mlp_norm: norm through which the MLP reads the residual stream, if it has one.
        returns: what its router returns, in its order.
    """

    layer: nn.Module
    attention: nn.Module
    attention_write: nn.Module
    heads: nn.Module
    mlp: nn.Module
    mlp_write: nn.Module
    router: nn.Module | None
    experts: nn.Module | None
    shared: nn.Module | None = None
    shared_gate: nn.Module | None = None
    rule: Rule | None = None
    mlp_norm: nn.Module | None = None
    returns: tuple[str, str, str] = ("logits", "weights", "index")

    def routed(self, output: tuple[Tensor, ...]) -> Routed:
        """Logits, weights and index out of what the router returned."""
        named = dict(zip(self.returns, output, strict=True))
        return named["logits"], named["weights"], named["index"]

    def rerouted(self, output: tuple[Tensor, ...], weights: Tensor, index: Tensor) -> tuple[Tensor, ...]:
        """What the router returned, with other weights and another index."""
        named = {**dict(zip(self.returns, output, strict=True)), "weights": weights, "index": index}
        return tuple(named[name] for name in self.returns)


@dataclass(frozen=True)
class Sites:
    """The modules of a model that are read and edited.

    Attributes:
        embedding_scale: what the embedding's output is multiplied with on its way to the first layer.
        write_scale: what every write of attention and MLP is multiplied with before it is added.
    """

    base: nn.Module
    embedding: nn.Module
    layers: tuple[LayerSites, ...]
    embedding_scale: float = 1.0
    write_scale: float = 1.0

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Indices of the layers that have a router."""
        return tuple(index for index, sites in enumerate(self.layers) if sites.router is not None)

    @property
    def rule(self) -> Rule | None:
        """Routing rule of the first MoE layer; those of others differ in a bias at most."""
        return next((sites.rule for sites in self.layers if sites.rule is not None), None)


def _part(owner: nn.Module, path: str, where: str) -> nn.Module:
    try:
        part = attrgetter(path)(owner)
    except AttributeError as error:
        raise SteerError(
            where,
            f"has no module `{path}` (looked for in {type(owner).__name__})",
            "the installed transformers lays this family out otherwise; mend its row in LAYOUTS",
        ) from error
    return part  # type: ignore[no-any-return]


def _layer_sites(config: Any, layer: nn.Module, layout: Layout, where: str) -> LayerSites:
    mlp = _part(layer, layout.mlp, where)
    # A family may mix dense and sparse layers: the router's presence tells which this one is.
    sparse = layout.router is not None and hasattr(mlp, layout.router)

    def inside(path: str | None) -> nn.Module | None:
        return _part(mlp, path, where) if sparse and path else None

    router = inside(layout.router)
    return LayerSites(
        layer=layer,
        attention=_part(layer, layout.heads.rpartition(".")[0], where),
        attention_write=_part(layer, layout.attention_write, where),
        heads=_part(layer, layout.heads, where),
        mlp=mlp,
        mlp_write=_part(layer, layout.mlp_write, where),
        router=router,
        experts=inside(layout.experts),
        shared=inside(layout.shared),
        shared_gate=inside(layout.shared_gate),
        rule=layout.rule(config, router) if layout.rule and router is not None else None,
        # Only saves time: a layer without it is computed as it is.
        mlp_norm=getattr(layer, layout.mlp_norm or "", None),
        returns=layout.returns,
    )


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes: where its weights are, or where accelerate brings them for it."""
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        if getattr(hook, "execution_device", None) is not None:
            return torch.device(hook.execution_device)  # type: ignore[union-attr]
    return next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))


def _setting(config: Any, name: str | None) -> float:
    return float(getattr(config, name)) if name else 1.0


def resolve(model: Any) -> Sites:
    """Find the modules of a causal language model by its family's row.

    Raises:
        SteerError: the family has no row, a module is not where the row says, or a family of experts
            has none in any layer.
    """
    family, config = model.config.model_type, model.config
    layout = layout_of(family)
    base = model.base_model
    stack: Any = _part(base, layout.layers, family)
    layers = tuple(
        _layer_sites(config, layer, layout, f"{family}, layer {index}") for index, layer in enumerate(stack)
    )
    sites = Sites(
        base=base,
        embedding=_part(base, layout.embedding, family),
        layers=layers,
        embedding_scale=_setting(config, layout.embedding_scale),
        write_scale=_setting(config, layout.write_scale),
    )
    if layout.router and not sites.moe_layers:
        raise SteerError(
            family, f"no layer has a router (`{layout.mlp}.{layout.router}`)", "check the model's config.json"
        )
    count = expert_count(model)
    if sites.rule is not None and not 0 < sites.rule.top_k <= count:
        cause = f"its config.json gives every token {sites.rule.top_k} of {count} experts"
        raise SteerError(family, cause, "fetch the checkpoint's own config.json again")
    return sites


def shared_output(sites: LayerSites, tokens: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens d"]:
    """What a MoE block adds to its experts' mixture for every token; zero where nothing is shared."""
    if sites.shared is None:
        return torch.zeros_like(tokens)
    output: Tensor = sites.shared(tokens)
    return output if sites.shared_gate is None else torch.sigmoid(sites.shared_gate(tokens)) * output
