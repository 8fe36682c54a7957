"""Logits under arms on the residual stream, row by row of a mixed batch, against decoders written by hand."""

import copy

import pytest
import torch

from steer.models.interventions import SCOPES, Arm, Operation, Scope
from steer.models.steering import steer
from tests.oracles import decoder
from tests.steering import (
    BASELINE,
    MIXED,
    Tiny,
    arms_of,
    close,
    follow,
    make,
    prompts,
    random,
    replies,
    steered,
)
from tests.tiny import HIDDEN


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
def test_every_row_of_a_ragged_mixed_batch_is_steered_as_by_hand(
    any_family: str, use_cache: bool, tiny: Tiny
) -> None:
    loaded, rows, fed = tiny(any_family), prompts(len(MIXED)), replies(len(MIXED))
    found = steered(loaded, rows, MIXED, fed, use_cache=use_cache)
    for row, (prompt, arm) in enumerate(zip(rows, MIXED, strict=True)):
        trace = decoder.run(loaded.model, [*prompt, *fed[row].tolist()], len(prompt), arm)
        assert close(found[row], trace.logits[len(prompt) - 1 :]), (row, arm)


@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe_mixed", "llama"])
def test_a_row_of_a_mixed_batch_is_what_it_is_alone(family: str, tiny: Tiny) -> None:
    loaded, rows, fed = tiny(family), prompts(len(MIXED)), replies(len(MIXED))
    together = steered(loaded, rows, MIXED, fed)
    for row, arm in list(enumerate(MIXED))[::2]:
        alone = steered(loaded, [rows[row]], [arm], fed[row : row + 1])
        assert close(together[row], alone[0]), arm


@pytest.mark.parametrize("index", range(len(arms_of("all"))))
def test_one_arm_in_all_rows_gives_what_it_gives_beside_others(index: int, tiny: Tiny) -> None:
    loaded, rows, fed = tiny("qwen3_moe"), prompts(5), replies(5)
    arm = arms_of("all")[index]
    broadcast = steered(loaded, rows, [arm] * 5, fed)
    beside = steered(loaded, [*rows, [1, 2, 3]], [arm] * 5 + [MIXED[3]], torch.cat([fed, fed[:1]]))
    assert close(broadcast, beside[:5])


@pytest.mark.parametrize("scope", SCOPES)
def test_at_strength_zero_the_logits_are_the_unsteered_ones_to_the_bit(
    any_family: str, scope: Scope, tiny: Tiny
) -> None:
    loaded, rows, fed = tiny(any_family), prompts(4), replies(4)
    bare = follow(loaded, rows, fed, use_cache=True)
    add = make(Operation("add", "add", 1, 0.0, scope))
    ablate = make(Operation("ablate", "ablate2", None, 0.0, scope))
    for arms in ([add] * 4, [ablate] * 4, [add, ablate, BASELINE, add]):
        assert torch.equal(steered(loaded, rows, arms, fed), bare)


def test_an_affine_edit_towards_the_component_that_is_there_changes_nothing(tiny: Tiny) -> None:
    # A prompt of one token has one component.
    loaded, fed = tiny("llama"), replies(1)
    entering = torch.from_numpy(decoder.run(loaded.model, [7]).residual[2])[-1].float()
    pair = torch.stack([random(HIDDEN, seed=5), entering])
    arm = Arm("affine", (Operation("affine", "pair", 2, 0.0, "prompt"),), {"pair": pair})
    assert close(steered(loaded, [[7]], [arm], fed), follow(loaded, [[7]], fed, use_cache=True))


@pytest.mark.parametrize("index", range(len(arms_of("generated"))))
def test_a_generated_scope_leaves_the_first_token_as_it_is_to_the_bit(
    index: int, any_family: str, tiny: Tiny
) -> None:
    loaded, rows, fed = tiny(any_family), prompts(3), replies(3)
    bare = follow(loaded, rows, fed, use_cache=True)
    found = steered(loaded, rows, [arms_of("generated")[index]] * 3, fed)
    assert torch.equal(found[:, 0], bare[:, 0])
    assert not torch.equal(found[:, 1], bare[:, 1])


@torch.inference_mode()
@pytest.mark.parametrize("index", range(len(arms_of("prompt"))))
def test_a_prompt_scope_leaves_cached_decoding_steps_alone(index: int, any_family: str, tiny: Tiny) -> None:
    loaded, rows, fed = tiny(any_family), prompts(3), replies(3)
    batch = loaded.batch(rows)
    mask = torch.cat([batch.attention_mask, torch.ones_like(fed[:, :1])], dim=1)
    step = {
        "input_ids": fed[:, :1],
        "attention_mask": mask,
        "position_ids": mask.sum(dim=1, keepdim=True) - 1,
    }
    with steer(loaded, [arms_of("prompt")[index]] * 3, batch.attention_mask):
        prefill = loaded.model(batch.input_ids, attention_mask=batch.attention_mask, use_cache=True)
        kept = copy.deepcopy(prefill.past_key_values)
        inside = loaded.model(**step, past_key_values=prefill.past_key_values).logits
    outside = loaded.model(**step, past_key_values=kept).logits
    assert torch.equal(inside, outside)
    bare = loaded.model(batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    assert not torch.equal(prefill.logits[:, -1], bare.logits[:, -1])


def test_the_prompt_is_edited_once_and_later_tokens_see_it_through_the_cache(tiny: Tiny) -> None:
    loaded, rows, fed = tiny("olmoe"), prompts(3), replies(3)
    arms = [make(Operation("add", "add", 1, 1.0, "prompt"))] * 3
    bare = follow(loaded, rows, fed, use_cache=True)
    assert not torch.allclose(steered(loaded, rows, arms, fed)[:, 1:], bare[:, 1:], atol=1e-3)
