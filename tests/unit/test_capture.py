from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steer.models.capture import Capture, capture
from steer.models.hooks import hooked
from steer.models.interventions import Arm, Operation, unit
from steer.models.loading import LoadedModel, load_checkpoint
from steer.models.steering import steer
from tests.oracles import decoder
from tests.tiny import EXPERTS, HIDDEN, LAYERS, MOE_FAMILIES, TOP_K, VOCABULARY

Tiny = Callable[[str], LoadedModel]
Checkpoint = Callable[[str], Path]

POSITIONS = 5
LENGTHS = (5, 12, 7, 5, 9)


def rows(seed: int = 0) -> list[list[int]]:
    """Prompts of many lengths, the shortest as long as the positions."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]


def captured(loaded: LoadedModel, prompts: list[list[int]], positions: int = POSITIONS) -> Capture:
    with capture(loaded, positions) as recorder:
        loaded.next_token_logits(loaded.batch(prompts))
        return recorder.take()


def fields(seen: Capture) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in vars(seen).items() if tensor.numel()}


def close(found: Any, expected: Any) -> bool:
    """Equal to 1e-5 of the largest number."""
    found, expected = np.asarray(found), np.asarray(expected)
    return found.shape == expected.shape and bool(
        np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    )


def hook_count(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_residuals_are_the_hidden_states_that_transformers_reports(
    any_family: str, checkpoint: Checkpoint
) -> None:
    # A model of its own: transformers leaves hooks on one that was asked for its hidden states.
    loaded = load_checkpoint(checkpoint(any_family))
    batch = loaded.batch(rows())
    with torch.inference_mode():
        told = loaded.model(
            batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            output_hidden_states=True,
        ).hidden_states
    seen = captured(loaded, rows()).residual
    assert len(told) == LAYERS + 1
    for layer in range(LAYERS):
        assert torch.equal(seen[:, layer], told[layer][:, -POSITIONS:])
    # transformers tells the last one behind the final norm.
    assert torch.equal(loaded.model.model.norm(seen[:, LAYERS]), told[LAYERS][:, -POSITIONS:])


def test_everything_captured_is_what_a_decoder_by_hand_computes(any_family: str, tiny: Tiny) -> None:
    loaded = tiny(any_family)
    seen = captured(loaded, rows())
    for row, prompt in enumerate(rows()):
        trace = decoder.run(loaded.model, prompt)
        expected: dict[str, list[Any]] = {
            "residual": trace.residual,
            "attention_out": trace.attention,
            "mlp_out": trace.mlp,
            "moe_input": trace.moe_input,
            "router_logits": trace.router_logits,
            "expert_index": trace.chosen,
            "expert_weight": trace.weights,
        }
        for name, tensor in fields(seen).items():
            if name.endswith("_count"):
                continue
            assert close(tensor[row], [part[-POSITIONS:] for part in expected[name]]), name


def test_what_a_layer_adds_is_what_its_attention_and_mlp_write(any_family: str, tiny: Tiny) -> None:
    seen = captured(tiny(any_family), rows())
    assert close(seen.residual[:, 1:] - seen.residual[:, :-1], seen.attention_out + seen.mlp_out)


def test_a_ragged_batch_gives_what_its_rows_give_alone_at_all_positions(any_family: str, tiny: Tiny) -> None:
    loaded = tiny(any_family)
    together = fields(captured(loaded, rows()))
    for row, prompt in enumerate(rows()):
        alone = fields(captured(loaded, [prompt]))
        assert together.keys() == alone.keys()
        for name, tensor in alone.items():
            assert close(together[name][row], tensor[0]), name


def test_positions_count_from_the_last_prompt_token(tiny: Tiny) -> None:
    loaded = tiny("olmoe")
    few, many = captured(loaded, rows(), 2), captured(loaded, rows(), 5)
    assert torch.equal(few.residual, many.residual[:, :, -2:])
    assert torch.equal(few.expert_index, many.expert_index[:, :, -2:])
    embedding = loaded.model.get_input_embeddings().weight
    for row, prompt in enumerate(rows()):
        assert torch.equal(many.residual[row, 0], embedding[prompt[-5:]])


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_the_routing_captured_is_what_the_logits_captured_lead_to(family: str, tiny: Tiny) -> None:
    loaded = tiny(family)
    seen = captured(loaded, rows())
    logits = seen.router_logits.double().numpy()
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares = powers / powers.sum(axis=-1, keepdims=True)
    index = np.argsort(-shares, axis=-1)[..., :TOP_K]
    weights = np.take_along_axis(shares, index, axis=-1)
    if loaded.model.config.norm_topk_prob:
        weights = weights / weights.sum(axis=-1, keepdims=True)
    assert np.array_equal(seen.expert_index.numpy(), index)
    assert close(seen.expert_weight, weights)


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_experts_are_counted_prompt_by_prompt_over_the_positions(family: str, tiny: Tiny) -> None:
    loaded = tiny(family)
    seen = captured(loaded, rows())
    counts = seen.expert_count
    assert counts.shape == (len(LENGTHS), len(loaded.sites.moe_layers), EXPERTS)
    for row in range(len(LENGTHS)):
        for layer in range(len(loaded.sites.moe_layers)):
            by_hand = Counter(seen.expert_index[row, layer].flatten().tolist())
            assert counts[row, layer].tolist() == [by_hand[expert] for expert in range(EXPERTS)]
    assert (counts.sum(dim=-1) == POSITIONS * TOP_K).all()


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_dense_model_has_no_routing_and_no_error(family: str, tiny: Tiny) -> None:
    seen = captured(tiny(family), rows())
    shapes = {name: tuple(tensor.shape) for name, tensor in vars(seen).items()}
    batch = len(LENGTHS)
    assert shapes["moe_input"] == (batch, 0, POSITIONS, HIDDEN)
    assert shapes["router_logits"] == shapes["expert_index"] == (batch, 0, POSITIONS, 0)


def test_numbers_are_stored_in_the_types_of_the_contract(checkpoint: Checkpoint) -> None:
    seen = captured(load_checkpoint(checkpoint("olmoe"), "bfloat16"), rows())
    assert (seen.router_logits.dtype, seen.expert_weight.dtype) == (torch.float32, torch.float32)
    assert seen.expert_index.dtype == torch.int16


def test_each_pass_is_taken_once_and_nothing_is_left_of_the_one_before(tiny: Tiny) -> None:
    loaded = tiny("olmoe")
    with capture(loaded, POSITIONS) as recorder:
        loaded.next_token_logits(loaded.batch(rows(1)))
        loaded.next_token_logits(loaded.batch(rows(2)))
        latest = recorder.take()
        with pytest.raises(KeyError):
            recorder.take()
    for name, tensor in fields(captured(loaded, rows(2))).items():
        assert torch.equal(fields(latest)[name], tensor)


def test_capture_changes_no_bit_of_what_the_model_computes(any_family: str, tiny: Tiny) -> None:
    loaded = tiny(any_family)
    batch = loaded.batch(rows())
    bare = loaded.next_token_logits(batch)
    with capture(loaded, POSITIONS):
        assert torch.equal(loaded.next_token_logits(batch), bare)


def test_capture_inside_a_steer_sees_what_the_edits_leave_behind(tiny: Tiny) -> None:
    loaded = tiny("olmoe")
    direction = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(3))
    arm = Arm("a", (Operation("ablate", "basis"),), {"basis": unit(direction)[None]})
    batch = loaded.batch(rows())
    with steer(loaded, [arm] * len(LENGTHS), batch.attention_mask), capture(loaded, POSITIONS) as recorder:
        loaded.next_token_logits(batch)
        left = recorder.take().residual @ unit(direction)
    assert left.abs().max() <= 1e-5 * captured(loaded, rows()).residual.norm(dim=-1).max()


def test_no_hook_outlives_the_block_whatever_happens_in_it(any_family: str, tiny: Tiny) -> None:
    loaded = tiny(any_family)
    before = hook_count(loaded.model)
    captured(loaded, rows())

    def body() -> None:
        with capture(loaded, POSITIONS):
            assert hook_count(loaded.model) > before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        body()
    assert hook_count(loaded.model) == before


def test_hooks_set_before_one_that_can_not_be_set_are_removed_as_well() -> None:
    module = nn.Linear(2, 2)

    class Unhookable(nn.Module):
        def register_forward_hook(self, *_args: Any, **_kwargs: Any) -> Any:
            raise RuntimeError

    def note(*args: Any) -> None:
        raise AssertionError

    with pytest.raises(RuntimeError), hooked([(module, "after", note), (Unhookable(), "after", note)]):
        pass
    assert hook_count(module) == 0
