"""The studies of real models: what was published stands in them."""

import itertools
import re
from pathlib import Path

import pytest

from steer.catalogue import known_models
from steer.cli import main
from steer.config import Config, RerouteArm, load

ROOT = Path(__file__).parents[2]
# SteerMoE, table A.2: experts of each model, activated and deactivated, against refusal and for it.
TABLE_A2 = {
    "openai/gpt-oss-120b": ([0, 100], [5, 0]),
    "openai/gpt-oss-20b": ([0, 20], [5, 0]),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": ([20, 0], [20, 0]),
    "allenai/OLMoE-1B-7B-0125-Instruct": ([10, 125], [5, 0]),
    "microsoft/Phi-3.5-MoE-instruct": ([5, 50], [5, 0]),
    "Qwen/Qwen3-30B-A3B": ([5, 480], [15, 0]),
}
FAITHFUL = {
    "openai/gpt-oss-120b": [5, 100],
    "openai/gpt-oss-20b": [10, 50],
    "mistralai/Mixtral-8x7B-Instruct-v0.1": [10, 100],
    "allenai/OLMoE-1B-7B-0125-Instruct": [0, 50],
    "microsoft/Phi-3.5-MoE-instruct": [10, 75],
    "Qwen/Qwen3-30B-A3B": [0, 500],
}
REAL = ("expert-aware", "steermoe", "steermoe-faithfulness", "olmoe-two-checkpoints", "dense-baseline")


def _study(name: str) -> Config:
    return load(ROOT / "config.yaml", ROOT / "workflow" / "studies" / f"{name}.yaml")


@pytest.mark.parametrize("name", REAL)
def test_a_study_of_real_models_has_no_other(name: str) -> None:
    study = _study(name)
    assert all(model.hub and model.path in known_models() for model in study.models.values())
    assert study.lock == f"workflow/studies/{name}.lock.json"
    assert study.results == f"results/{name}"
    assert not {"truth", "embedded"} & {*study.judges}


def test_steermoe_reroutes_as_many_experts_as_were_published() -> None:
    study = _study("steermoe")
    names = {model.path: name for name, model in study.models.items()}
    assert names.keys() == TABLE_A2.keys()
    for path, both in TABLE_A2.items():
        for arm_name, numbers in zip(("reroute", "reroute_induce"), both, strict=True):
            arm = study.arms[arm_name]
            assert isinstance(arm, RerouteArm)
            one = arm.of_model(names[path])
            assert [one.activated, one.deactivated] == numbers
    arm = study.arms["reroute"]
    assert isinstance(arm, RerouteArm)
    assert arm.of_model("another") is arm


@pytest.mark.parametrize(
    ("name", "arm_name"), [("steermoe", "reroute_faithful"), ("steermoe-faithfulness", "reroute_induce")]
)
def test_both_halves_of_steermoe_reroute_to_the_document_as_published(name: str, arm_name: str) -> None:
    study = _study(name)
    arm = study.arms[arm_name]
    assert isinstance(arm, RerouteArm)
    assert arm.polarity == "induce"
    assert (arm.ranking or study.selection.rerouting.ranking) == "document"
    for model, settings in study.models.items():
        one = arm.of_model(model)
        assert [one.activated, one.deactivated] == FAITHFUL[settings.path]


def test_the_dense_baseline_has_no_arm_on_experts() -> None:
    study = _study("dense-baseline")
    assert not any(model.has_experts for model in study.models.values())
    assert {arm.operation for arm in study.arms.values()} == {"none", "add", "affine", "ablate"}


def test_the_plan_of_steermoe_can_be_checked_by_hand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["plan", "steermoe", "--gpu", "a100-80gb", "--prompt-tokens", "50"]) == 0
    said = capsys.readouterr().out
    olmoe = said.split("## ")[1]
    assert "olmoe-0125: allenai/OLMoE-1B-7B-0125-Instruct" in olmoe
    assert "6,919,161,856" in olmoe
    # Five sets of 100, 100, 500, 60 and 100 prompts under 18 arms, and the first and last 100 under two more
    # seeds of the random control; each prompt is read twice.
    replies = 18 * (100 + 100 + 500 + 60 + 100) + 2 * 200
    row = next(line.split() for line in olmoe.splitlines() if line.startswith("  generation"))
    assert row[3:5] == [f"{2 * 50 * replies:,}", f"{512 * replies:,}"]
    assert "4 of a100-80gb" in said.split("## ")[6]


def test_no_command_that_is_told_gives_its_target_away_as_a_configuration() -> None:
    told = [ROOT / "README.md", *(ROOT / "workflow" / "studies").glob("*.yaml")]
    commands = [
        match[1].split()
        for path in told
        for match in re.finditer(r"(snakemake [^`\n#\\]*--configfile[^`\n#\\]*)", path.read_text())
    ]
    assert len(commands) >= 8
    for words in commands:
        # `--configfile` takes every word up to the next flag.
        behind = words[words.index("--configfile") + 1 :]
        files = [*itertools.takewhile(lambda word: not word.startswith("-"), behind)]
        assert all(file.endswith(".yaml") for file in files), " ".join(words)
