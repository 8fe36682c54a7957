"""Edits of experts, routers, heads and swaps against decoders written by hand."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from steer.models.companions import with_companions
from steer.models.firing import Fired
from steer.models.interventions import SCOPES, Arm, Operation, Scope, orthonormal_basis
from steer.models.loading import LoadedModel
from steer.models.steering import steer
from tests.oracles import decoder
from tests.tiny import EXPERTS, HIDDEN
from tests.unit.test_steering import Tiny, close, follow, prompts, replies

BASELINE = Arm("baseline")
DENSE = ("llama", "qwen3")


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TENSORS = {
    "r": random(HIDDEN, seed=1),
    "basis": orthonormal_basis(random(1, HIDDEN, seed=2)),
    "one": random(1, HIDDEN, seed=3),
    "two": random(2, HIDDEN, seed=4),
    "all": random(EXPERTS, HIDDEN, seed=5),
}


def make(*operations: Operation, twin: tuple[Operation, ...] = ()) -> Arm:
    used = {one.tensor: TENSORS[one.tensor] for one in (*operations, *twin) if one.tensor}
    return Arm(" then ".join(one.operation for one in operations), operations, used, twin)


def expert_arms(scope: Scope) -> list[Arm]:
    """Every kind on experts and routers, alone, several in a layer, over layers, and together."""
    one = Operation("expert_add", "one", 1, 0.8, scope, experts=(3,))
    every = Operation("experts_add", "all", 3, -0.3, scope)
    cut = Operation("expert_ablate", "two", 1, 1.0, scope, experts=(0, 6))
    route = Operation("reroute", layer=1, scope=scope, activate=(2, 5), deactivate=(0, 1))
    bias = Operation("bias_router", layer=3, coefficient=3.0, scope=scope, activate=(4,), deactivate=(7,))
    mask = Operation("mask_experts", layer=3, scope=scope, experts=(0, 1, 2))
    scale = Operation("scale_experts", layer=1, coefficient=-0.5, scope=scope, experts=(0, 2, 4, 6))
    replay = Operation("replay_routing", scope=scope)
    add = Operation("add", "r", 1, 0.6, scope)
    return [
        make(one),
        make(replace(one, weighting="full")),
        make(replace(one, weighting="one", layer=3)),
        make(replace(one, tensor="two", experts=(7, 2), coefficient=-1.0)),
        make(every),
        make(replace(every, weighting="full")),
        make(replace(every, weighting="one", layer=1)),
        make(cut),
        make(replace(cut, coefficient=0.4)),
        make(route),
        make(replace(route, activate=())),
        make(replace(route, deactivate=(), layer=3)),
        make(bias),
        make(mask),
        make(scale),
        make(one, replace(one, experts=(5,), weighting="full"), replace(every, layer=1), cut),
        make(
            route, replace(route, activate=(), deactivate=(3, 4)), mask, replace(bias, layer=1, activate=(6,))
        ),
        make(scale, replace(mask, layer=1), one, replace(route, layer=3)),
        make(add, Operation("ablate", "basis", scope=scope), scale, every),
        make(add, replay),
        make(add, cut, replace(replay, layer=3)),
        make(replay, twin=(add, route)),
        make(one, replay, twin=(mask,)),
    ]


def stream_arms(scope: Scope) -> list[Arm]:
    """Heads and swaps, which every family has."""
    heads = Operation("mask_heads", layer=1, scope=scope, heads=(0, 3))
    swap = Operation("swap", layer=2, scope="prompt", positions=(-1,))
    mlp, add = replace(swap, component="mlp"), Operation("add", "r", 2, 0.6, scope)
    return [
        make(heads),
        make(heads, replace(heads, heads=(1,), coefficient=0.5), replace(heads, layer=3)),
        make(swap),
        make(replace(swap, component="attention", positions=(-3, -1))),
        make(replace(mlp, coefficient=0.3), replace(mlp, positions=(-2,))),
        make(swap, add),
        make(add, heads, swap),
    ]


SWAP_TWIN = make(
    Operation("replay_routing"), twin=(Operation("swap", layer=0, scope="prompt", positions=(-2, -1)),)
)


def arms_for(family: str) -> list[Arm]:
    streams = [BASELINE, *(arm for scope in SCOPES for arm in stream_arms(scope))]
    if family in DENSE:
        return streams
    return [*streams, SWAP_TWIN, *(arm for scope in SCOPES for arm in expert_arms(scope))]


def donors(count: int) -> list[list[int]]:
    return [row[::-1] for row in prompts(count + 1, seed=3)[1:]]


def steered(
    loaded: LoadedModel, arms: Sequence[Arm], *, use_cache: bool = True
) -> tuple[Tensor, list[Fired]]:
    """Logits of every row, followed through fixed replies, and what its arm did."""
    count = len(arms)
    whole = with_companions(prompts(count), arms, donors(count))
    fed = replies(count)
    fed = torch.cat([fed, fed[list(whole.leaders.values())]])
    mask = loaded.batch(whole.prompts).attention_mask
    with steer(loaded, whole.arms, mask, twins=whole.twins, donors=whole.donors) as steering:
        logits = follow(loaded, whole.prompts, fed, use_cache=use_cache)
        return logits[:count], steering.fired([fed.shape[1]] * len(whole.arms))[:count]


def by_hand(loaded: LoadedModel, arms: Sequence[Arm], row: int) -> decoder.Trace:
    prompt, fed = prompts(len(arms))[row], replies(len(arms))[row].tolist()
    return decoder.run(loaded.model, [*prompt, *fed], len(prompt), arms[row], donors(len(arms))[row])


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
def test_every_row_of_a_ragged_mixed_batch_is_steered_as_by_hand(
    any_family: str, use_cache: bool, tiny: Tiny
) -> None:
    loaded, arms = tiny(any_family), arms_for(any_family)
    found, fired = steered(loaded, arms, use_cache=use_cache)
    for row, arm in enumerate(arms):
        trace, known = by_hand(loaded, arms, row), len(prompts(len(arms))[row])
        assert close(found[row], trace.logits[known - 1 :]), (row, arm.operations)
        assert fired[row].leaked == sum(int(counts.sum()) for counts in trace.leaked), arm.operations
        places = [(place, layer) for place, layer, _, _ in trace.edits]
        if len(set(places)) == len(places):
            norm = relative_norm(trace, known, arm)
            assert fired[row].relative_norm == pytest.approx(norm, rel=1e-3, abs=1e-7), arm


def relative_norm(trace: decoder.Trace, known: int, arm: Arm) -> float:
    """By hand: over the tokens of the first pass that the arm touches, averaged over its sites."""
    touched = np.arange(known, known + 1)
    if any(operation.scope != "generated" for operation in arm.operations):
        touched = np.arange(known)
        active = [one for one in arm.operations if one.scope != "generated"]
        if all(one.operation == "swap" for one in active):
            touched = np.array(
                sorted({known + place for one in active for place in one.positions}), dtype=int
            )
    shares = [change[touched].sum() / norm[touched].sum() for _, _, change, norm in trace.edits]
    return float(np.mean(shares)) if shares else 0.0
