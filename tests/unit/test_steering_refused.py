"""Arms on experts, routers, heads and swaps that can't fire are refused before anything runs."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from steer.errors import SteerError
from steer.models.companions import with_companions
from steer.models.decoding import generate
from steer.models.interventions import Arm, Operation
from steer.models.loading import load_checkpoint
from steer.models.steering import steer
from tests.steering import Tiny, follow, forged, hook_count, prompts, replies
from tests.tiny import EXPERTS, HIDDEN

Checkpoint = Callable[[str], Path]

ONE, TWO, ALL = torch.ones(1, HIDDEN), torch.ones(2, HIDDEN), torch.ones(EXPERTS, HIDDEN)
ADD = Operation("expert_add", "t", 1, experts=(3,))
EVERY = Operation("experts_add", "t", 1)
CUT = Operation("expert_ablate", "t", 1, experts=(3,))
ROUTE = Operation("reroute", layer=1, activate=(1,), deactivate=(2,))
MASK = Operation("mask_experts", layer=1, experts=(0,))
HEADS = Operation("mask_heads", layer=1, heads=(0,))
SWAP = Operation("swap", layer=1, scope="prompt", positions=(-1,))
REPLAY = Operation("replay_routing")
MOST = tuple(range(EXPERTS - 1))
SOME = replace(ROUTE, activate=(), deactivate=MOST[:4])

BAD: list[tuple[str, tuple[Operation, ...], torch.Tensor | None, str]] = [
    ("expert too far", (replace(ADD, experts=(EXPERTS,)),), ONE, r"`experts` \[8\] are not in (.|\n)*0 to 7"),
    ("expert negative", (replace(MASK, experts=(-1,)),), None, r"`experts` \[-1\] are not in"),
    ("expert twice", (replace(ADD, experts=(3, 3)),), TWO, "`experts` names one twice"),
    ("activated too far", (replace(ROUTE, activate=(9,)),), None, r"`activate` \[9\] are not in"),
    ("deactivated too far", (replace(ROUTE, deactivate=(9,)),), None, r"`deactivate` \[9\] are not in"),
    ("head too far", (replace(HEADS, heads=(4,)),), None, r"`heads` \[4\] are not in(.|\n)*0 to 3"),
    ("layer too far", (replace(ROUTE, layer=4),), None, "layer 4 is not one of the 4 layers"),
    ("no layer", (replace(ROUTE, layer=None),), None, "layer None is not one of the 4 layers"),
    ("replay too far", (replace(REPLAY, layer=7),), None, "layer 7 is not one of the 4 layers"),
    ("no tensor", (ADD,), None, "has no tensor `t`"),
    ("fewer rows than experts", (replace(ADD, experts=(3, 4)),), ONE, r"expected \[n, d\].*n = 2 experts"),
    ("not every expert", (EVERY,), TWO, r"tensor `t` is \[2, 32\], expected \[E, d\].*E = 8 experts"),
    ("narrow", (CUT,), ONE[:, :-1], r"tensor `t` is \[1, 31\]"),
    ("zero", (ADD,), ONE * 0, "zero or not finite"),
    ("one of two zero", (replace(CUT, experts=(1, 2)),), TWO * torch.tensor([[0.0], [1.0]]), "zero or not"),
    ("weighting", (forged(ADD, weighting="half"),), ONE, "`half` is not a known weighting"),
    ("component", (forged(SWAP, component="router"),), None, "`router` is not a known component"),
    ("field of others", (replace(ADD, activate=(1,)),), ONE, "`activate` means nothing to it"),
    ("tensor of others", (replace(MASK, tensor="t"),), ONE, "`tensor` means nothing to it"),
    ("swap in the reply", (replace(SWAP, scope="all"),), None, "its scope is `all`"),
    ("position from the start", (replace(SWAP, positions=(0,)),), None, r"positions \[0\] don't count from"),
    ("before the prompt", (replace(SWAP, positions=(-9,)),), None, "swaps position -9(.|\n)*has 4 tokens"),
    ("both in one", (replace(ROUTE, deactivate=(1,)),), None, "both activated and deactivated"),
    ("both in two", (ROUTE, replace(MASK, experts=(1,))), None, "both activated and avoided"),
    ("too many masked", (replace(MASK, experts=MOST),), None, "7 of 8 experts are avoided(.|\n)*needs 2"),
    ("too many away", (replace(ROUTE, activate=(), deactivate=MOST),), None, "every token needs 2"),
    ("too many together", (SOME, replace(MASK, experts=MOST[4:])), None, "every token needs 2"),
    ("ablated twice", (CUT, CUT), ONE, "expert 3 is ablated twice"),
    ("no donor", (SWAP,), None, "swaps with a paired prompt, and the row has none"),
    ("no twin", (REPLAY,), None, "replays the routing of a twin, and the row has none"),
]


@pytest.mark.parametrize(
    ("operations", "tensor", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_an_arm_that_can_not_fire_is_an_error_before_anything_runs(
    operations: tuple[Operation, ...], tensor: Any, message: str, tiny: Tiny
) -> None:
    loaded = tiny("olmoe")
    before = hook_count(loaded.model)
    arm = Arm("mine", operations, {} if tensor is None else {"t": tensor})
    with (
        pytest.raises(SteerError, match=rf"arm `mine`(.|\n)*{message}"),
        steer(loaded, [Arm("baseline"), arm], torch.ones(2, 4, dtype=torch.long)),
    ):
        raise AssertionError
    assert hook_count(loaded.model) == before


EXPERT_ARMS = {
    "expert_add": Arm("mine", (ADD,), {"t": ONE}),
    "experts_add": Arm("mine", (EVERY,), {"t": ALL}),
    "expert_ablate": Arm("mine", (CUT,), {"t": ONE}),
    "reroute": Arm("mine", (ROUTE,)),
    "bias_router": Arm("mine", (replace(ROUTE, operation="bias_router"),)),
    "mask_experts": Arm("mine", (MASK,)),
    "scale_experts": Arm("mine", (replace(MASK, operation="scale_experts"),)),
    "replay_routing": Arm("mine", (REPLAY,)),
}


@pytest.mark.parametrize("kind", EXPERT_ARMS)
def test_a_dense_model_has_no_expert_arms(kind: str, tiny: Tiny) -> None:
    with pytest.raises(SteerError, match=r"acts on experts, and .* has none(.|\n)*residual and attention"):
        generate(tiny("llama"), [[1, 2, 3]], [EXPERT_ARMS[kind]], 2)


@pytest.mark.parametrize("kind", [kind for kind in EXPERT_ARMS if kind != "replay_routing"])
def test_a_dense_layer_among_others_has_none_either(kind: str, tiny: Tiny) -> None:
    arm = EXPERT_ARMS[kind]
    dense = replace(arm, operations=(replace(arm.operations[0], layer=2),))
    with pytest.raises(SteerError, match=r"layer 2 of .* is dense(.|\n)*MoE layers: 1, 3"):
        generate(tiny("qwen3_moe_mixed"), [[1, 2, 3]], [dense], 2)


def test_what_an_arm_takes_from_others_has_to_be_given(tiny: Tiny) -> None:
    swap = Arm("mine", (SWAP,))
    with pytest.raises(SteerError, match="swaps with a paired prompt, and there is none"):
        generate(tiny("olmoe"), [[1, 2, 3]], [swap], 2)
    far = Arm("mine", (replace(SWAP, positions=(-3,)),))
    with pytest.raises(SteerError, match="swaps position -3, and its prompt or donor has 2 tokens"):
        generate(tiny("olmoe"), [[1, 2, 3]], [far], 2, donors=[[1, 2]])
    chained = Arm("mine", (REPLAY,), {}, (REPLAY,))
    with pytest.raises(SteerError, match="its twin replays a routing too"):
        generate(tiny("olmoe"), [[1, 2, 3]], [chained], 2)


# A router's decision is edited whoever uses it.
ROUTED = [(part, kind) for part in ("gate", "mlp") for kind in ("reroute", "replay_routing")]
MIXED = [(part, kind) for part in ("gate", "mlp", "experts") for kind in ("expert_add", "expert_ablate")]


@pytest.mark.parametrize(("part", "kind"), ROUTED + MIXED)
def test_an_edit_whose_module_is_bypassed_is_an_error(part: str, kind: str, checkpoint: Checkpoint) -> None:
    loaded = load_checkpoint(checkpoint("olmoe"))
    layer = loaded.model.model.layers[1]
    owner, name = (layer, "mlp") if part == "mlp" else (layer.mlp, part)
    setattr(owner, name, copy.deepcopy(getattr(owner, name)))
    whole = with_companions(prompts(2), [EXPERT_ARMS[kind]] * 2)
    mask = loaded.batch(whole.prompts).attention_mask
    with (
        pytest.raises(SteerError, match=r"of layer 1 \(prompt tokens\): its hook never fired(.|\n)*LAYOUTS"),
        steer(loaded, whole.arms, mask, twins=whole.twins),
    ):
        follow(loaded, whole.prompts, replies(len(whole.prompts)), use_cache=True)


def test_heads_that_are_bypassed_are_an_error(any_family: str, checkpoint: Checkpoint) -> None:
    loaded = load_checkpoint(checkpoint(any_family))
    attention = loaded.model.model.layers[1].self_attn
    attention.o_proj = copy.deepcopy(attention.o_proj)
    arms = [Arm("mine", (HEADS,))] * 2
    with (
        pytest.raises(SteerError, match=r"edit at heads of layer 1(.|\n)*its hook never fired"),
        steer(loaded, arms, loaded.batch(prompts(2)).attention_mask),
    ):
        follow(loaded, prompts(2), replies(2), use_cache=True)
