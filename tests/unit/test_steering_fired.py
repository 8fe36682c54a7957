"""What an arm did: the tokens it touched, its sites and the size of its edits, by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from steer.models.interventions import SCOPES, Arm, Operation
from steer.models.loading import LoadedModel, load_checkpoint
from steer.models.steering import steer
from tests.oracles import decoder
from tests.steering import (
    BASELINE,
    MIXED,
    STEPS,
    Checkpoint,
    Tiny,
    arms_of,
    fired,
    follow,
    make,
    prompts,
    random,
    replies,
)
from tests.tiny import HIDDEN, LAYERS


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
def test_the_tokens_touched_are_those_of_the_scope(use_cache: bool, tiny: Tiny) -> None:
    arms = [BASELINE, *(make(Operation("ablate", "ablate", scope=scope)) for scope in SCOPES)]
    known = [len(prompt) for prompt in prompts(len(arms))]
    found = [row.tokens for row in fired(tiny("olmoe"), arms, use_cache=use_cache)]
    assert found == [0, known[1], STEPS, known[3] + STEPS]


def test_tokens_that_were_not_fed_back_are_not_counted(tiny: Tiny) -> None:
    loaded, rows = tiny("olmoe"), prompts(3)
    arms = [make(Operation("add", "add", 1, 1.0, scope)) for scope in ("generated", "all", "prompt")]
    with steer(loaded, arms, loaded.batch(rows).attention_mask) as steering:
        follow(loaded, rows, replies(3), use_cache=True)
        found = steering.fired([0, 1, 2])
    assert [row.tokens for row in found] == [0, len(rows[1]) + 1, len(rows[2])]
    assert (found[0].sites, found[0].relative_norm) == (0, 0.0)


def test_sites_are_one_for_an_edit_at_a_layer_and_every_write_for_an_ablation(tiny: Tiny) -> None:
    arms = [
        MIXED[1],
        make(Operation("ablate", "ablate")),
        make(*MIXED[1].operations, Operation("ablate", "ablate")),
    ]
    writes = 1 + 2 * LAYERS
    assert [row.sites for row in fired(tiny("qwen3_moe_mixed"), arms)] == [1, writes, 1 + writes]


def relative_norm(loaded: LoadedModel, prompt: list[int], fed: list[int], arm: Arm) -> float:
    """By hand: over the tokens of the first pass that the arm touches, averaged over its sites."""
    trace = decoder.run(loaded.model, [*prompt, *fed], len(prompt), arm)
    touched = slice(len(prompt), len(prompt) + 1)
    if any(operation.scope != "generated" for operation in arm.operations):
        touched = slice(0, len(prompt))
    shares = [change[touched].sum() / norm[touched].sum() for _, _, change, norm in trace.edits]
    return float(np.mean([share for share in shares if share > 0]))


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
def test_the_relative_norm_is_that_of_the_edits_over_the_residual_by_hand(
    any_family: str, use_cache: bool, tiny: Tiny
) -> None:
    loaded = tiny(any_family)
    arms = [arm for arm in MIXED if len(arm.operations) == 1]
    arms += [
        make(Operation("add", "add", 2, 0.7, scope), Operation("ablate", "ablate", scope=scope))
        for scope in SCOPES
    ]
    rows, fed = prompts(len(arms)), replies(len(arms))
    found = fired(loaded, arms, use_cache=use_cache)
    for row, arm in enumerate(arms):
        by_hand = relative_norm(loaded, rows[row], fed[row].tolist(), arm)
        assert found[row].relative_norm == pytest.approx(by_hand, rel=1e-4), arm


def test_sums_of_norms_stay_in_range_in_half_precision(checkpoint: Checkpoint) -> None:
    loaded = load_checkpoint(checkpoint("llama"), "float16")
    wide = make(Operation("add", "add", 1, 1.0))
    rows = [list(range(200))] * 2
    big = replace(wide, tensors={"add": random(HIDDEN, seed=1) * 300})
    with steer(loaded, [big] * 2, loaded.batch(rows).attention_mask) as steering, torch.inference_mode():
        loaded.next_token_logits(loaded.batch(rows))
        found = steering.fired([0, 0])
    assert all(0 < row.relative_norm < math.inf for row in found)


def test_a_phase_that_never_came_is_no_error(tiny: Tiny) -> None:
    loaded, rows = tiny("olmoe"), prompts(2)
    with steer(loaded, [arms_of("generated")[0]] * 2, loaded.batch(rows).attention_mask) as steering:
        loaded.next_token_logits(loaded.batch(rows))
        assert [row.tokens for row in steering.fired([0, 0])] == [0, 0]
