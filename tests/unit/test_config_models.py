"""Models of the configuration: their devices, and the parts that an arm names and they lack."""

import json
from pathlib import Path
from typing import Any

import pytest

from steer.config import merge, parse
from steer.errors import SteerError
from tests.configured import NONE, valid


def test_a_device_may_have_a_number() -> None:
    judge = {"kind": "likelihood", "path": "folder", "device": "cuda:1", "revision": "refs/pr/3"}
    model = {"path": "some/model", "device": "cpu:0"}
    found = parse(merge(valid(), {"judges": {"new": judge}, "models": {"other": model}}))
    assert found.models["other"].device == "cpu:0"


@pytest.mark.parametrize(
    ("device", "expected"), [("cpu", [2]), ("cpu:0", [2]), ("cuda", [2, "cuda"]), ("auto", [2, "auto"])]
)
def test_rows_of_the_cpu_are_named_by_threads_and_others_by_their_device_too(
    device: str, expected: list[object]
) -> None:
    found = parse(merge(valid(), {"models": {"other": {"path": "m", "device": device, "threads": 2}}}))
    assert found.models["other"].arithmetic == expected


TAUGHT = {"refused": ["harmful"], "answered": ["harmless"]}
OTHERS: dict[str, Any] = {
    "a layer of a model of 16": (
        {"path": "allenai/OLMoE-1B-7B-0924-Instruct"},
        {"operation": "add", "layer": 20},
        "`arms.new.layer`: 20, but model `other` has layers 0 to 15 with experts 0 to 63",
    ),
    "a dense layer of a model with experts": (
        {"upcycle": TAUGHT},
        {"operation": "mask_experts", "experts": [[12, 7], [20, 0]]},
        "[20, 0], but model `other` has layers 0 to 29, with experts 0 to 7 in layers 12, 13, 14, 15, 16",
    ),
    "experts of a dense model": (
        {"path": "Qwen/Qwen3-8B"},
        {"operation": "reroute"},
        "`arms.new`: acts on experts or their routing, and model `other` is dense; remove one of the two",
    ),
    "an expert of an upcycled model": (
        {"upcycle": TAUGHT},
        {"operation": "mask_experts", "experts": [[12, 8]]},
        "`arms.new.experts`: [12, 8], but",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_parts_that_a_model_of_known_architecture_lacks_are_named(case: str) -> None:
    model, arm, said = OTHERS[case]
    with pytest.raises(SteerError) as caught:
        parse({**valid(), "models": {"other": model}, "arms": {"baseline": NONE, "new": arm}})
    assert said in caught.value.cause


@pytest.mark.parametrize("wrong", [{"num_experts": "eight"}, {"num_hidden_layers": 2.5}])
def test_a_model_whose_configuration_counts_in_words_is_named(wrong: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 2, **wrong}))
    with pytest.raises(SteerError, match="no whole number") as caught:
        parse({**valid(), "models": {"other": {"path": str(tmp_path)}}, "arms": {"baseline": NONE}})
    assert caught.value.what == str(tmp_path / "config.json")


@pytest.mark.parametrize("wrong", [3, ["one"]])
def test_dense_layers_that_are_no_list_are_named(wrong: Any, tmp_path: Path) -> None:
    told = {"num_hidden_layers": 2, "num_experts": 4, "mlp_only_layers": wrong}
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(SteerError, match="no list of layers"):
        parse({**valid(), "models": {"other": {"path": str(tmp_path)}}, "arms": {"baseline": NONE}})


def test_parts_of_a_model_that_is_not_known_yet_are_left_to_the_run() -> None:
    arms = {"baseline": NONE, "new": {"operation": "add", "layer": 20}}
    assert parse({**valid(), "models": {"other": {"path": "some/model"}}, "arms": arms})
