from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from steer.detection.gradients import contrast_gradients, prompt_gradients, reply_gradients, written
from steer.detection.rows import Told
from steer.models.capture import capture
from steer.models.loading import LoadedModel
from steer.models.scoring import refusal_score
from tests.tiny import EXPERTS, MOE_FAMILIES

HARMFUL = ("a red kite", "nine evenings", "tea", "seven stones")
HARMLESS = ("the blue boat", "or some", "up")
REFUSING = (10, 40, 77)
POSITIONS, BATCH = 3, 3
STEP = 1e-3
Tiny = Callable[[str], LoadedModel]


def _rows(loaded: LoadedModel, texts: tuple[str, ...]) -> list[list[int]]:
    return [loaded.encode(text) for text in texts]


def _score(loaded: LoadedModel, ids: list[int]) -> float:
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.tensor([ids])).logits[:, -1]
    return float(refusal_score(logits, REFUSING))


@contextmanager
def _routing(loaded: LoadedModel, layer: int) -> Iterator[list[Any]]:
    """Block input, weights and index of one layer, of prompts run one at a time."""
    block, found = loaded.model.model.layers[layer].mlp, []
    handles = [
        block.register_forward_pre_hook(lambda _m, args: found.append([args[0][0]])),
        block.gate.register_forward_hook(lambda _m, _a, out: found[-1].extend(out[1:])),
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _added(loaded: LoadedModel, layer: int, expert: int, ids: list[int]) -> Tensor:
    """g_e E_e(u) at the last positions of one prompt, from the expert's own matrices."""
    with _routing(loaded, layer) as found:
        _score(loaded, ids)
    u, weights, index = found[0]
    experts = loaded.model.model.layers[layer].mlp.experts
    gate, up = (u @ experts.gate_up_proj[expert].T).chunk(2, dim=-1)
    output = (torch.nn.functional.silu(gate) * up) @ experts.down_proj[expert].T
    weight = (weights * (index == expert)).sum(dim=-1, keepdim=True)
    return (weight * output)[-POSITIONS:].detach()


def _moved(loaded: LoadedModel, layer: int, ids: list[int], change: Tensor) -> float:
    """The score of a prompt with a change added to a block's output at the last positions."""

    def hook(_module: Any, _args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, -POSITIONS:] += change
        return output

    handle = loaded.model.model.layers[layer].mlp.register_forward_hook(hook)
    try:
        return _score(loaded, ids)
    finally:
        handle.remove()


@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe_mixed"])
def test_the_contrast_is_the_slope_of_moving_an_expert_to_its_harmless_mean(tiny: Tiny, family: str) -> None:
    loaded = tiny(family)
    harmful, harmless = _rows(loaded, HARMFUL), _rows(loaded, HARMLESS)
    found = contrast_gradients(loaded, harmful, harmless, REFUSING, POSITIONS, BATCH)
    assert found.shape == (len(loaded.sites.moe_layers), EXPERTS)
    compared = 0
    for place, layer in enumerate(loaded.sites.moe_layers):
        for expert in (0, 5):
            mean = torch.stack([_added(loaded, layer, expert, ids) for ids in harmless]).mean(dim=0)
            slopes, smooth = [], True
            for ids in harmful:
                change = _added(loaded, layer, expert, ids) - mean
                lower, middle, upper = (
                    _moved(loaded, layer, ids, sign * STEP * change) for sign in (-1, 0, 1)
                )
                slopes.append((upper - lower) / (2 * STEP))
                # A choice further up that flips within the step makes the score jump.
                smooth &= abs(upper + lower - 2 * middle) < 0.1 * STEP
            if smooth:
                compared += 1
                assert float(found[place, expert]) == pytest.approx(
                    sum(slopes) / len(slopes), rel=0.02, abs=0.01
                )
    assert compared >= len(loaded.sites.moe_layers)


@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe"])
def test_what_the_experts_of_a_layer_write_is_what_their_block_writes(tiny: Tiny, family: str) -> None:
    loaded = tiny(family)
    harmful, harmless = _rows(loaded, HARMFUL), _rows(loaded, HARMLESS)
    direction = torch.randn(loaded.hidden_size, generator=torch.Generator().manual_seed(1))
    found = written(loaded, harmful, harmless, direction, BATCH)
    means = []
    for rows in (harmful, harmless):
        with capture(loaded, 1) as recorder:
            outputs = []
            for ids in rows:
                loaded.next_token_logits(loaded.batch([ids]))
                outputs.append(recorder.take().mlp_out[0, :, 0].double())
        means.append(torch.stack(outputs).mean(dim=0))
    r = direction.double()
    expected = ((means[0] - means[1]) @ r / (r @ r))[list(loaded.sites.moe_layers)]
    assert torch.allclose(found.sum(dim=1), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_means_do_not_depend_on_how_rows_are_batched(tiny: Tiny, family: str) -> None:
    loaded = tiny(family)
    rows = _rows(loaded, HARMFUL)
    together = prompt_gradients(loaded, rows, REFUSING, 4)
    alone = sum(prompt_gradients(loaded, [row], REFUSING, 1) for row in rows) / len(rows)
    assert torch.allclose(together, alone, rtol=1e-3, atol=1e-5)  # type: ignore[arg-type]
    assert float(together.abs().max()) > 1e-3


def test_swapping_the_replies_turns_the_sign(tiny: Tiny) -> None:
    loaded = tiny("olmoe")
    prompts = _rows(loaded, HARMFUL)
    sides = [
        [
            Told([*prompt, *loaded.tokenizer.encode(text)], len(loaded.tokenizer.encode(text)))
            for prompt in prompts
        ]
        for text in ("no, sorry", "yes")
    ]
    one = reply_gradients(loaded, sides[0], sides[1], BATCH)
    other = reply_gradients(loaded, sides[1], sides[0], 1)
    assert torch.allclose(one, -other, rtol=1e-3, atol=1e-5)
    assert float(one.abs().max()) > 1e-4
