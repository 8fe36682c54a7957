"""Steered generation against transformers' own `generate` at equal batch and equal length."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig

from bench.models import models, token_rows
from bench.timing import Line, rate, seconds
from steer.models.decoding import generate
from steer.models.interventions import Arm, Operation, unit
from steer.models.loading import LoadedModel

ROWS, TOKENS, ROUNDS = 32, 16, 3
REPLAY = Arm("replay", (Operation("replay_routing"),))
# Held to more, since they are arithmetic alone.
RESIDUAL = ("add", "affine", "ablate, all layers")


def arms(loaded: LoadedModel) -> dict[str, Arm]:
    """One arm of each operation, weak enough to leave lengths alone."""
    generator = torch.Generator().manual_seed(0)
    r = torch.randn(loaded.hidden_size, generator=generator)
    layer = loaded.layers // 2
    pair = torch.stack([r, torch.zeros_like(r)])
    return {
        "add": Arm("add", (Operation("add", "r", layer, 1e-3),), {"r": r}),
        "affine": Arm("affine", (Operation("affine", "pair", layer, 0.0),), {"pair": pair}),
        "ablate, all layers": Arm("ablate", (Operation("ablate", "basis"),), {"basis": unit(r)[None]}),
        "mask_heads": Arm("mask_heads", (Operation("mask_heads", layer=layer, heads=(0,)),)),
        **expert_arms(loaded, r),
    }


def expert_arms(loaded: LoadedModel, r: Tensor) -> dict[str, Arm]:
    """Arms on experts and routers, at one layer or, where that is how they are used, at all of them."""
    if not loaded.experts:
        return {}
    moe = loaded.sites.moe_layers
    layer, tensors = moe[len(moe) // 2], {"one": r[None], "all": r.expand(loaded.experts, -1).clone()}
    every = {
        "expert_ablate": [Operation("expert_ablate", "one", at, experts=(1,)) for at in moe],
        "reroute": [Operation("reroute", layer=at, activate=(1,), deactivate=(2, 3)) for at in moe],
        "bias_router": [Operation("bias_router", layer=at, coefficient=9.0, activate=(1,)) for at in moe],
        "mask_experts": [Operation("mask_experts", layer=at, experts=(2, 3)) for at in moe],
        "scale_experts": [Operation("scale_experts", layer=at, coefficient=0.5, experts=(1,)) for at in moe],
    }
    single = [Operation("expert_add", "one", layer, 1e-3, experts=(1,))]
    full = [Operation("experts_add", "all", layer, 1e-3, weighting="full")]
    arms = {"expert_add": single, "experts_add, full": full}
    arms |= {f"{kind}, all layers": operations for kind, operations in every.items()}
    return {name: Arm(name, tuple(operations), tensors) for name, operations in arms.items()}


def lines(folder: Path) -> Iterator[Line]:
    """Tokens per second of every operation, on every model."""
    for name, loaded in models(folder).items():
        loaded.model.generation_config.eos_token_id = None
        loaded.tokenizer.eos_token = None
        tokens = token_rows(loaded, ROWS)
        ways: dict[str, Callable[[], object]] = {"naive": partial(plain, loaded, tokens)}
        for kind, arm in arms(loaded).items():
            ways[kind] = partial(generate, loaded, tokens, [arm] * ROWS, TOKENS)
        ways["replay_routing"] = partial(generate, loaded, tokens, [REPLAY] * ROWS, TOKENS)
        taken = seconds(ways, ROUNDS)
        for kind in arms(loaded):
            target = ">= 0.95" if kind in RESIDUAL else ">= 0.9"
            what = f"{name}: {kind} / unsteered"
            yield rate(what, "tok/s", ROWS * TOKENS, taken, kind, target if name == "mid" else "(shown)")
        # Every row needs a second one, that lends its routing.
        what = f"{name}: replay_routing / unsteered"
        yield rate(what, "tok/s", ROWS * TOKENS, taken, "replay_routing", "(two rows for one)")


@torch.inference_mode()
def plain(loaded: LoadedModel, tokens: list[list[int]]) -> None:
    """Unsteered replies by transformers alone, decoded to text."""
    batch = loaded.batch(tokens)
    config = GenerationConfig(
        do_sample=False, max_new_tokens=TOKENS, pad_token_id=loaded.tokenizer.pad_token_id
    )
    ids = loaded.model.generate(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, generation_config=config
    )
    loaded.tokenizer.batch_decode(ids[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
