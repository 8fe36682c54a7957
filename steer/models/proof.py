"""Prove at load that the parts a layout names are the parts that act (design, section 4)."""

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from steer.errors import SteerError
from steer.models.architectures import chosen_output
from steer.models.hooks import first, hooked, with_first
from steer.models.loading import Batch, LoadedModel
from steer.models.observing import Block, Observed, Shape, observe, parts
from steer.models.sites import LayerSites, shared_output

ROWS, TOKENS = 2, 8
# Relative error allowed to sums that a model computes in another order than we do.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def prove(loaded: LoadedModel) -> None:
    """Run the model on a few arbitrary tokens and check every claim its layout makes.

    In every layer, from one pass: that the parts are called once each, in their turn, and return the shapes
    that are claimed; that the embedding is what enters the first layer and that what attention and MLP add
    is what the residual stream gains; that the routing rule gives the router's own weights and choice from
    its logits, exactly, and the experts take them; and that a MoE block's output is the weighted sum of its
    chosen experts' outputs, each of them alone, with what every token shares.

    In the first and the last layer of every kind (layers of the same classes run the same code), by a pass
    each: that pushing the router, and each write, changes the logits. Experts that none of the few tokens
    chose are not looked at.

    Raises:
        SteerError: a claim does not hold; it names the family, the layer and the claim.
    """
    batch = probe(loaded)
    seen = observe(loaded, batch)
    _prove_called_in_turn(loaded, seen)
    if not bool(torch.isfinite(seen.logits).all()):
        raise _fail(loaded, "logits", f"they hold NaN or infinity in {loaded.model.dtype}")
    _prove_writes_add_up(loaded, seen)
    for index, block in seen.blocks.items():
        _prove_routing(loaded, loaded.sites.layers[index], block, f"layer {index}, router")
    for index in pushed_layers(loaded):
        sites = loaded.sites.layers[index]
        _prove_causal(loaded, batch, seen, sites.attention_write, f"layer {index}, attention")
        _prove_causal(loaded, batch, seen, sites.mlp_write, f"layer {index}, MLP")
        if sites.router is not None:
            _prove_router_acts(loaded, batch, seen, sites, f"layer {index}, router")


def probe(loaded: LoadedModel) -> Batch:
    """A few arbitrary tokens, the same at every load."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, int(loaded.model.config.vocab_size), (ROWS, TOKENS), generator=generator)
    return loaded.batch(ids.tolist())


def pushed_layers(loaded: LoadedModel) -> list[int]:
    """The first and the last layer of every kind, told apart by the classes of its parts."""
    kinds: dict[tuple[type, ...], list[int]] = {}
    for index, sites in enumerate(loaded.sites.layers):
        looked_at = (sites.layer, sites.attention_write, sites.mlp, sites.mlp_write, sites.router)
        kinds.setdefault(tuple(map(type, looked_at)), []).append(index)
    return sorted({index for found in kinds.values() for index in (found[0], found[-1])})


def _fail(loaded: LoadedModel, where: str, claim: str) -> SteerError:
    return SteerError(
        f"{loaded.name} (family {loaded.model.config.model_type}), {where}",
        f"the load-time proof failed: {claim}",
        "mend the family's row in steer/models/architectures.py; results would be wrong without it",
    )


def _close(loaded: LoadedModel, found: Tensor, expected: Tensor, rounded: Tensor | float = 0.0) -> bool:
    """Whether two tensors are equal within the tolerance, and what was `rounded` off before."""
    scale = expected.abs().max().clamp(min=1e-6)
    return bool(((found - expected).abs() <= TOLERANCE[loaded.model.dtype] * scale + rounded).all())


def _prove_called_in_turn(loaded: LoadedModel, seen: Observed) -> None:
    order = [where for where, _ in parts(loaded.sites)]
    for where, call in zip_longest(order, seen.calls, fillvalue=None):
        found = call[0] if call else "nothing"
        if where != found:
            raise _fail(loaded, where or "end", f"it is not called once and in its turn: {found} is")
    for (where, shapes), (_, returned) in zip(_claimed(loaded), seen.calls, strict=True):
        if returned[: len(shapes)] != shapes:
            raise _fail(loaded, where, f"it returns tensors of shapes {returned}, not {shapes}")


def _claimed(loaded: LoadedModel) -> Iterator[tuple[str, list[Shape]]]:
    """The shapes of the tensors that every part returns first."""
    tokens, width = ROWS * TOKENS, loaded.hidden_size
    widths = {"logits": loaded.experts, "weights": loaded.top_k, "index": loaded.top_k}
    for where, _ in parts(loaded.sites):
        shapes: list[Shape] = [(ROWS, TOKENS, width)]
        if where.endswith("experts"):
            shapes = [(tokens, width)]
        elif where.endswith("router"):
            returns = loaded.sites.layers[loaded.sites.moe_layers[0]].returns
            shapes = [(tokens, widths[name]) for name in returns]
        yield where, shapes


def _prove_writes_add_up(loaded: LoadedModel, seen: Observed) -> None:
    sites = loaded.sites
    # Parts of one model may be on several devices.
    if not torch.equal(seen.embedded.cpu() * sites.embedding_scale, seen.residual[0].cpu()):
        raise _fail(loaded, "embedding", "its output is not what enters the first layer")
    for layer in range(loaded.layers):
        parts_of_sum = (
            seen.residual[layer + 1],
            seen.residual[layer],
            seen.attention_out[layer],
            seen.mlp_out[layer],
        )
        leaving, entering, attention, mlp = (part.cpu().float() for part in parts_of_sum)
        # Real models hold single numbers of many thousands in the residual, whose last bits outweigh a write.
        rounded = torch.finfo(loaded.model.dtype).eps * (entering.abs() + attention.abs() + leaving.abs())
        if not _close(loaded, leaving - entering, (attention + mlp) * sites.write_scale, rounded):
            raise _fail(loaded, f"layer {layer}", "attention and MLP don't add up to the residual's gain")


def _prove_causal(loaded: LoadedModel, batch: Batch, seen: Observed, write: nn.Module, where: str) -> None:
    def push(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        return with_first(output, first(output) + 1.0 + first(output).roll(1, dims=-1))

    with hooked([(write, "after", push)]):
        pushed = loaded.next_token_logits(batch)
    if torch.equal(pushed, seen.logits):
        raise _fail(loaded, where, "changing its output leaves the logits as they were")


def _prove_routing(loaded: LoadedModel, sites: LayerSites, block: Block, where: str) -> None:
    rule = sites.rule
    assert rule is not None
    logits, weights, index = sites.routed(block.returned)
    found = rule.route(logits)
    if not _same_choice(found[0].to(weights.dtype), found[1], weights, index):
        raise _fail(loaded, where, f"`{rule.name}` does not give the router's own choice and weights")
    if len(block.taken) != len(block.returned) or not torch.equal(block.taken[1], index):
        raise _fail(loaded, where, "the experts are not called with its choice")
    total = weighted_sum(sites, block.tokens, weights, index)
    if not _close(loaded, block.output.cpu(), total.cpu()):
        raise _fail(loaded, where, "the block's output is not the weighted sum of its experts'")


def _same_choice(weights: Tensor, index: Tensor, their_weights: Tensor, their_index: Tensor) -> bool:
    """Whether two choices are the same, in whatever order."""
    order, theirs = index.argsort(dim=-1), their_index.argsort(dim=-1)
    return torch.equal(index.gather(-1, order), their_index.gather(-1, theirs)) and torch.equal(
        weights.gather(-1, order), their_weights.gather(-1, theirs)
    )


@torch.inference_mode()
def weighted_sum(
    sites: LayerSites,
    tokens: Float[Tensor, "tokens d"],
    weights: Float[Tensor, "tokens chosen"],
    index: Int[Tensor, "tokens chosen"],
) -> Float[Tensor, "tokens d"]:
    """What every token shares, and Σ_e g_e·E_e(u), with each expert's output made alone."""
    assert sites.experts is not None
    each = chosen_output(sites.experts, tokens.repeat_interleave(index.shape[-1], dim=0), index.flatten())
    routed = (each.unflatten(0, index.shape) * weights[..., None]).sum(dim=1)
    total: Tensor = shared_output(sites, tokens) + routed.to(tokens.dtype)
    return total


def _prove_router_acts(
    loaded: LoadedModel, batch: Batch, seen: Observed, sites: LayerSites, where: str
) -> None:
    def reverse(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        assert sites.rule is not None
        logits, old, _ = sites.routed(output)
        weights, index = sites.rule.route(-logits)
        return sites.rerouted(output, weights.to(old.dtype), index)

    assert sites.router is not None
    with hooked([(sites.router, "after", reverse)]):
        pushed = loaded.next_token_logits(batch)
    if torch.equal(pushed, seen.logits):
        raise _fail(loaded, where, "reversing its preference leaves the logits as they were")
