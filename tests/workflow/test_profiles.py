"""The profiles of clusters name rules that there are, and plan."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from steer.figures import index
from tests.workflow.project import ROOT, Project

PROFILES = ("slurm", "kubernetes")
RULES = sorted((ROOT / "workflow" / "rules").glob("*.smk"))
# They read `model.json` and what was recorded, and no weights; `truth` runs embedded models alone.
LIGHT = {"arms", "routing", "activations_gather", "generation_gather", "ranges", "truth"}


def _profile(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(_path(name).read_text())
    return values


def _path(name: str) -> Path:
    return ROOT / "workflow" / "profiles" / name / "config.yaml"


def _rules() -> dict[str, str]:
    """Text of every rule by name; those of figures, which a loop makes, by the registry."""
    found = {f"figure_{name}": "" for name in index.FIGURES}
    for path in RULES:
        parts = re.split(r"^ *rule (\w+):\n", path.read_text(), flags=re.MULTILINE)
        found |= dict(zip(parts[1::2], parts[2::2], strict=True))
    return found


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_names_rules_that_there_are(name: str) -> None:
    profile, rules = _profile(name), _rules().keys()
    assert profile["executor"] == name
    assert profile["set-resources"].keys() <= rules
    assert profile["groups"].keys() <= rules
    assert {*profile["groups"].values()} == profile["group-components"].keys()
    alone = {rule for rule in rules if rule.startswith("figure_")} - profile["groups"].keys()
    assert not alone, f"figures that would queue alone, for groups of {_path(name)}: {alone}"


@pytest.mark.parametrize("name", PROFILES)
def test_every_rule_that_runs_the_model_asks_for_a_gpu_and_for_more_memory_when_tried_again(
    name: str,
) -> None:
    resources = _profile(name)["set-resources"]
    heavy = {rule for rule, text in _rules().items() if " --facts {input.facts" in text} - LIGHT
    with_gpu = {rule for rule, asked in resources.items() if asked.get("gpu")}
    said = (
        f"rules that differ, for set-resources of {_path(name)} or LIGHT: {(heavy | {'resolve'}) ^ with_gpu}"
    )
    assert heavy | {"resolve"} == with_gpu, said
    assert all("attempt" in asked["mem_mb"] for asked in resources.values())
    assert "attempt" in _profile(name)["default-resources"]["mem_mb"]
    assert _profile(name)["retries"] >= 1


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_plans_a_study_with_shards(name: str, tmp_path: Path) -> None:
    project = Project.of_the_checkout(tmp_path / "project")
    study = ROOT / "workflow" / "studies" / "olmoe-two-checkpoints.yaml"
    changes = {**yaml.safe_load(study.read_text()), "shards": {"activations": 2, "generation": 2}}
    project.path("config.tiny.yaml").write_text(yaml.safe_dump(changes))
    # The plugins of clusters that are not installed here can't be asked.
    local = () if name == "slurm" else ("--executor", "local", "--cores", "1")
    profile = ("--workflow-profile", f"workflow/profiles/{name}", *local)
    said = project.snakemake("--dry-run", "--quiet", "host", *profile)
    assert re.search(r"^generation_shard +\d+$", said, flags=re.MULTILINE)
