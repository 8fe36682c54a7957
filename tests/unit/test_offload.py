"""Models whose weights accelerate keeps elsewhere: in memory or on disk, and brought for each module."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload

from steer.models.architectures import router_rows
from steer.models.capture import Capture, capture
from steer.models.decoding import generate
from steer.models.gates import gate_gradients
from steer.models.loading import LoadedModel, load_checkpoint
from steer.models.proof import prove
from steer.models.sites import device_of, resolve
from tests.steering import Tiny, prompts
from tests.unit.test_steering_experts import BASELINE, SWAP_TWIN, donors, expert_arms, steered, stream_arms

ARMS = [BASELINE, SWAP_TWIN, *stream_arms("all")[::3], *expert_arms("all")[::4]]
Offload = Callable[[LoadedModel, Path], LoadedModel]


def _moved(loaded: LoadedModel, offload: Callable[[Any], Any]) -> LoadedModel:
    model = copy.deepcopy(loaded.model)
    offload(model)
    assert all(parameter.is_meta for parameter in model.parameters())
    return replace(loaded, model=model, sites=resolve(model))


def to_memory(loaded: LoadedModel, _folder: Path) -> LoadedModel:
    return _moved(loaded, lambda model: cpu_offload(model, torch.device("cpu")))


def to_disk(loaded: LoadedModel, folder: Path) -> LoadedModel:
    return _moved(loaded, lambda model: disk_offload(model, folder, torch.device("cpu")))


def _captured(loaded: LoadedModel) -> Capture:
    with capture(loaded, 3) as recorder:
        loaded.next_token_logits(loaded.batch(prompts(4)))
        return recorder.take()


@pytest.mark.parametrize(
    ("family", "offload"), [("qwen2_moe", to_disk), ("gpt_oss", to_memory), ("deepseek_v3", to_disk)]
)
def test_edits_captures_and_replies_are_those_of_a_model_in_place(
    family: str, offload: Offload, tiny: Tiny, tmp_path: Path
) -> None:
    loaded = tiny(family)
    moved = offload(loaded, tmp_path)
    assert moved.device == torch.device("cpu")
    prove(moved)
    for mine, theirs in zip(vars(_captured(moved)).values(), vars(_captured(loaded)).values(), strict=True):
        assert torch.equal(mine, theirs)
    logits, fired = steered(moved, ARMS)
    expected, found = steered(loaded, ARMS)
    assert torch.equal(logits, expected)
    assert fired == found
    rows, theirs = prompts(len(ARMS)), donors(len(ARMS))
    replies = [generate(one, rows, ARMS, 3, donors=theirs) for one in (moved, loaded)]
    assert [reply.text for reply in replies[0]] == [reply.text for reply in replies[1]]
    layer = loaded.sites.moe_layers[0]
    routers = [one.sites.layers[layer].router for one in (moved, loaded)]
    assert torch.equal(*(router_rows(router) for router in routers if router is not None))


def test_a_model_that_accelerate_places_is_the_same(tiny: Tiny, checkpoint: Callable[[str], Path]) -> None:
    placed = load_checkpoint(checkpoint("olmoe"), device="auto")
    prove(placed)
    batch = placed.batch(prompts(3))
    assert torch.equal(placed.next_token_logits(batch), tiny("olmoe").next_token_logits(batch))
    assert device_of(placed.sites.layers[0].layer) == torch.device("cpu")


def test_gradients_through_weights_kept_elsewhere_are_the_same(tiny: Tiny, tmp_path: Path) -> None:
    loaded = tiny("qwen2_moe")
    moved = to_memory(loaded, tmp_path)
    found = [gate_gradients(one, one.batch(prompts(3)), lambda z: z[:, -1, 7]) for one in (moved, loaded)]
    assert torch.equal(found[0][1], found[1][1])
