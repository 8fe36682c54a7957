"""Every family that has a row: the proof at load, and every intervention against blocks written by hand."""

from collections.abc import Sequence

import pytest
import torch

from steer.models.architectures import LAYOUTS
from steer.models.capture import capture
from steer.models.companions import with_companions
from steer.models.interventions import SCOPES, Arm, Operation, Scope
from steer.models.loading import LoadedModel
from steer.models.steering import steer
from tests.oracles import hybrid
from tests.steering import Tiny, close, follow, prompts, random, replies
from tests.tiny import CORE, FAMILIES
from tests.unit.test_steering_experts import (
    BASELINE,
    STILL,
    SWAP_TWIN,
    TENSORS,
    donors,
    expert_arms,
    steered,
    stream_arms,
)

# Those of the core are held against decoders that are written out whole; `qwen2_moe` checks the two oracles.
ROWS = sorted({*FAMILIES} - {*CORE} | {"qwen2_moe"})
MOE = [family for family in ROWS if LAYOUTS[FAMILIES[family][0]].router]
TENSORS = {**TENSORS, "pair": random(2, TENSORS["r"].shape[0], seed=6)}


def make(*operations: Operation) -> Arm:
    used = {one.tensor: TENSORS[one.tensor] for one in operations if one.tensor}
    return Arm(" then ".join(one.operation for one in operations), operations, used)


def residual_arms(scope: Scope) -> list[Arm]:
    return [
        make(Operation("add", "r", 2, 0.7, scope)),
        make(Operation("affine", "pair", 2, 0.4, scope)),
        make(Operation("ablate", "basis", scope=scope)),
    ]


def arms_of(family: str, scope: Scope) -> list[Arm]:
    """Every kind on every part that the family has."""
    arms = [*residual_arms(scope), *stream_arms(scope)]
    return [*arms, SWAP_TWIN, *expert_arms(scope)] if family in MOE else arms


def compare(loaded: LoadedModel, arms: Sequence[Arm], *, use_cache: bool) -> None:
    """Hold a ragged batch, an arm in each row, against one sequence at a time by hand."""
    count = len(arms)
    found, fired = steered(loaded, arms, use_cache=use_cache)
    for row, arm in enumerate(arms):
        prompt = prompts(count)[row]
        tokens = [*prompt, *replies(count)[row].tolist()]
        trace = hybrid.run(loaded.model, tokens, len(prompt), arm, donors(count)[row])
        assert close(found[row], trace.logits[len(prompt) - 1 :]), (row, arm.operations)
        assert (fired[row].leaked, fired[row].blocked) == (trace.leaked, trace.blocked), arm.operations


@pytest.mark.parametrize("family", ROWS)
def test_a_mixed_ragged_batch_is_steered_as_by_hand(family: str, tiny: Tiny) -> None:
    sample = [arms_of(family, scope)[place::6] for place, scope in enumerate(SCOPES)]
    compare(tiny(family), [BASELINE, *(arm for arms in sample for arm in arms)], use_cache=True)


@pytest.mark.slow
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
@pytest.mark.parametrize("family", ROWS)
def test_every_arm_in_every_scope_is_steered_as_by_hand(
    family: str, use_cache: bool, scope: Scope, tiny: Tiny
) -> None:
    compare(tiny(family), [BASELINE, *arms_of(family, scope)], use_cache=use_cache)


@pytest.mark.parametrize("family", MOE)
def test_an_empty_or_weightless_edit_leaves_every_bit_of_a_family_alone(family: str, tiny: Tiny) -> None:
    loaded, arms = tiny(family), [make(operation) for operation in STILL]
    whole = with_companions(prompts(len(arms)), arms, donors(len(arms)))
    fed = torch.cat([replies(len(arms)), replies(len(arms))[list(whole.leaders.values())]])
    bare = follow(loaded, whole.prompts, fed, use_cache=True)
    with steer(loaded, whole.arms, loaded.batch(whole.prompts).attention_mask, donors=whole.donors) as active:
        found = follow(loaded, whole.prompts, fed, use_cache=True)
        fired = active.fired([1] * len(whole.arms))
    for row, arm in enumerate(arms):
        assert torch.equal(found[row], bare[row]), arm
        assert (fired[row].relative_norm, fired[row].leaked, fired[row].blocked) == (0.0, 0, 0)


@pytest.mark.parametrize("family", ROWS)
def test_what_is_captured_is_what_flows(family: str, tiny: Tiny) -> None:
    loaded = tiny(family)
    prompt = prompts(1, seed=4)[0]
    trace = hybrid.run(loaded.model, prompt, len(prompt))
    with capture(loaded, len(prompt)) as recorder:
        loaded.next_token_logits(loaded.batch([prompt]))
        seen = recorder.take()
    gained = seen.residual[0, 1:] - seen.residual[0, :-1]
    assert close(gained, seen.attention_out[0] + seen.mlp_out[0])
    for place, layer in enumerate(loaded.sites.moe_layers):
        weights = seen.expert_weight[0, place]
        assert weights.equal(weights.sort(dim=-1, descending=True).values)
        for token, decision in enumerate(trace.decisions[layer]):
            theirs = dict(zip(decision.chosen.tolist(), decision.weights.tolist(), strict=True))
            index = seen.expert_index[0, place, token].tolist()
            mine = dict(zip(index, weights[token].tolist(), strict=True))
            assert mine == pytest.approx(theirs, rel=1e-4)
