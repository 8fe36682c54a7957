"""Edits of experts, routers, heads and swaps against decoders written by hand."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from steer.models.companions import with_companions
from steer.models.compiling import compile_arms
from steer.models.decoding import generate
from steer.models.edits.choice import make_choice
from steer.models.edits.context import Context, Use
from steer.models.edits.signals import Routing
from steer.models.firing import Fired
from steer.models.interventions import SCOPES, Arm, Operation, Scope, orthonormal_basis
from steer.models.loading import LoadedModel, load_checkpoint
from steer.models.mixed import Job, job_values
from steer.models.steering import steer
from steer.models.stops import stop_tokens
from tests.oracles import decoder
from tests.steering import BASELINE, Tiny, close, follow, prompts, random, replies
from tests.tiny import EXPERTS, HIDDEN, LAYERS, MOE_FAMILIES, TOP_K

DENSE = ("llama", "qwen3")


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


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
def test_replies_of_a_mixed_batch_are_those_of_decoders_by_hand(
    any_family: str, use_cache: bool, tiny: Tiny
) -> None:
    loaded, limit = tiny(any_family), 4
    arms = [BASELINE, *stream_arms("all")]
    if any_family not in DENSE:
        arms += [SWAP_TWIN, *expert_arms("all")[::2], *expert_arms("generated")[1::4]]
    rows, theirs = prompts(len(arms)), donors(len(arms))
    found = generate(loaded, rows, arms, limit, use_cache=use_cache, donors=theirs)
    assert len(found) == len(arms)
    for reply, prompt, arm, donor in zip(found, rows, arms, theirs, strict=True):
        tokens = decoder.greedy(loaded.model, prompt, arm, stop_tokens(loaded), limit, donor)
        text = loaded.tokenizer.decode(tokens, skip_special_tokens=True)
        assert (reply.text, reply.n_tokens) == (text, len(tokens)), arm.operations
        assert (reply.fired.tokens > 0) == bool(arm.operations)


@pytest.mark.parametrize("index", range(len(expert_arms("all"))))
def test_one_arm_in_all_rows_gives_what_it_gives_beside_others(index: int, tiny: Tiny) -> None:
    loaded, arm = tiny("qwen3_moe"), expert_arms("all")[index]
    alone, fired = steered(loaded, [arm] * 5)
    for row in range(5):
        trace = by_hand(loaded, [arm] * 5, row)
        assert close(alone[row], trace.logits[len(prompts(5)[row]) - 1 :])
    assert {row.sites for row in fired} == {fired[0].sites}


STILL = [
    Operation("reroute", layer=1),
    Operation("bias_router", layer=1),
    Operation("bias_router", layer=1, coefficient=0.0, activate=(1,), deactivate=(2,)),
    Operation("mask_experts", layer=1),
    Operation("scale_experts", layer=1),
    Operation("scale_experts", layer=1, coefficient=1.0, experts=(0, 1, 2, 3)),
    Operation("expert_add", "one", 1, 0.0, experts=(3,)),
    Operation("experts_add", "all", 1, 0.0, weighting="full"),
    Operation("expert_ablate", "two", 1, 0.0, experts=(0, 6)),
    Operation("mask_heads", layer=1),
    Operation("mask_heads", layer=1, coefficient=0.0, heads=(0, 1)),
    Operation("swap", layer=1, scope="prompt"),
    Operation("swap", layer=1, coefficient=0.0, scope="prompt", positions=(-1,)),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_an_empty_or_weightless_edit_leaves_every_bit_alone(
    family: str, dtype: str, checkpoint: Callable[[str], Any]
) -> None:
    loaded = load_checkpoint(checkpoint(family), dtype)
    # No row that really changes a routing is among them: it would change the sizes of the experts'
    # matrix products, and so the last bits of all rows.
    arms = [make(operation) for operation in STILL]
    whole = with_companions(prompts(len(arms)), arms, donors(len(arms)))
    fed = torch.cat([replies(len(arms)), replies(len(arms))[list(whole.leaders.values())]])
    bare = follow(loaded, whole.prompts, fed, use_cache=True)
    mask = loaded.batch(whole.prompts).attention_mask
    with steer(loaded, whole.arms, mask, donors=whole.donors) as active:
        found = follow(loaded, whole.prompts, fed, use_cache=True)
        fired = active.fired([1] * len(whole.arms))
    for row, arm in enumerate(arms):
        assert torch.equal(found[row], bare[row]), arm
        assert (fired[row].relative_norm, fired[row].leaked, fired[row].blocked) == (0.0, 0, 0)


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_rows_without_an_edit_keep_what_their_router_gave_to_the_bit(family: str, tiny: Tiny) -> None:
    loaded = tiny(family)
    rule = loaded.sites.rule
    assert rule is not None
    z = random(3, 5, EXPERTS, seed=8)
    weights, index = rule.route(z)
    # Weights that the rule would not give again.
    routing = Routing.unedited(z, weights * 1.1, index)
    route = Operation("reroute", layer=1, activate=(2,), deactivate=(0,))
    arms = [make(route), BASELINE, make(Operation("mask_experts", layer=1, experts=(1,)))]
    rows = {row: [Use(one, arm) for one in arm.operations] for row, arm in enumerate(arms) if row != 1}
    found = make_choice(Context(loaded, arms), rows)(routing)
    assert torch.equal(found.weights[1], routing.weights[1])
    assert torch.equal(found.index[1], routing.index[1])
    for row in (0, 2):
        assert not torch.equal(found.weights[row], routing.weights[row])


# Routing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_routing_frozen_to_the_unsteered_run_undoes_a_pure_rerouting(family: str, tiny: Tiny) -> None:
    loaded = tiny(family)
    route = Operation("reroute", layer=1, activate=(2, 5), deactivate=(0, 1))
    frozen, _ = steered(loaded, [make(route, Operation("replay_routing"))] * 3)
    assert close(frozen, follow(loaded, prompts(3), replies(3), use_cache=True))


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_the_routing_of_a_pure_rerouting_alone_is_all_of_its_effect(family: str, tiny: Tiny) -> None:
    loaded = tiny(family)
    route = Operation("reroute", layer=1, activate=(2, 5), deactivate=(0, 1))
    alone, _ = steered(loaded, [make(Operation("replay_routing"), twin=(route,))] * 3)
    full, _ = steered(loaded, [make(route)] * 3)
    bare = follow(loaded, prompts(3), replies(3), use_cache=True)
    assert close(alone, full)
    assert not torch.allclose(alone, bare, atol=1e-3)


def test_a_deactivated_or_masked_expert_is_never_chosen_even_in_half_precision(
    checkpoint: Callable[[str], Any],
) -> None:
    loaded = load_checkpoint(checkpoint("olmoe"), "bfloat16")
    away = tuple(range(EXPERTS - TOP_K))
    arms = [
        make(Operation("reroute", layer=1, deactivate=away)),
        make(Operation("mask_experts", layer=3, experts=away)),
        make(*(Operation("reroute", layer=layer, deactivate=away) for layer in range(LAYERS))),
    ]
    _, fired = steered(loaded, arms)
    assert [row.leaked for row in fired] == [0, 0, 0]
    assert all(row.relative_norm > 0 for row in fired)


def test_a_shift_that_is_too_small_leaks_and_is_counted(tiny: Tiny) -> None:
    weak = make(Operation("bias_router", layer=1, coefficient=1e-3, deactivate=(0, 1, 2, 3)))
    _, fired = steered(tiny("olmoe"), [weak, BASELINE])
    assert fired[0].leaked > 0
    assert fired[1].leaked == 0


def test_activations_beyond_the_top_k_are_dropped_counted_and_warned_of(
    tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    loaded, many = tiny("olmoe"), tuple(range(TOP_K + 3))
    arms = [
        make(Operation("reroute", layer=1, activate=many)),
        make(Operation("reroute", layer=1, activate=many[:TOP_K])),
        make(Operation("bias_router", layer=1, coefficient=50.0, activate=many)),
        make(*(Operation("reroute", layer=layer, activate=many[::-1]) for layer in (0, 3))),
    ]
    arms = [replace(arm, name=f"dropping {place}") for place, arm in enumerate(arms)]
    with caplog.at_level(logging.WARNING):
        found, fired = steered(loaded, arms)
        steered(loaded, arms)
    assert [row.dropped for row in fired] == [3, 0, 3, 6]
    said = [record.message for record in caplog.records if "beyond the top" in record.message]
    assert len(said) == 3
    # The first of the list are the strongest: the same as activating them alone, at the same prompt.
    alone, _ = steered(loaded, [arms[1], arms[1], BASELINE, BASELINE])
    assert close(found[0], alone[0])


def test_a_donor_shared_by_a_sweep_is_in_the_batch_once() -> None:
    swap = make(Operation("swap", layer=1, scope="prompt", positions=(-1,)))
    whole = with_companions([[1, 2], [3, 4], [5, 6]], [swap, swap, BASELINE], [[7, 8], [7, 8], [9]])
    assert (len(whole.prompts), whole.donors, whole.leaders) == (4, {0: 3, 1: 3}, {3: 0})
    assert with_companions([[1]], [BASELINE]).leaders == {}
    with pytest.raises(ValueError, match="1 donors for 2 prompts"):
        with_companions([[1], [2]], [BASELINE] * 2, [[1]])


def test_scores_of_mixed_rows_take_what_they_need_from_rows_beside_them(tiny: Tiny) -> None:
    loaded = tiny("olmoe")
    arms = [BASELINE, *stream_arms("all")[2:], *expert_arms("all")[-4:], SWAP_TWIN]
    rows, theirs = prompts(len(arms)), donors(len(arms))
    swaps = [any(one.operation == "swap" for one in (*arm.operations, *arm.twin)) for arm in arms]
    jobs = [
        Job(arm, row, "", donor if swap else ())
        for arm, row, donor, swap in zip(arms, rows, theirs, swaps, strict=True)
    ]
    found = job_values(loaded, jobs, 5, lambda logits, _: logits[:, -1, 7])
    by_hand = [
        decoder.run(loaded.model, row, len(row), arm, donor).logits[-1, 7]
        for arm, row, donor in zip(arms, rows, theirs, strict=True)
    ]
    assert close(found, by_hand)


def test_phases_that_are_edited_alike_share_their_parameters(tiny: Tiny) -> None:
    add = Operation("experts_add", "all", 1)
    both = make(add), make(replace(add, scope="prompt"), replace(add, scope="generated"))
    whole, split = (compile_arms(tiny("olmoe"), [arm] * 3, {}, {}) for arm in both)
    assert whole["experts", 1]["prompt"] is whole["experts", 1]["generated"]
    assert split["experts", 1]["prompt"] is not split["experts", 1]["generated"]
