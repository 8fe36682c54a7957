"""The default and every study plan, and every rule says what a reader of the workflow needs."""

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from steer.artifacts.provenance import modules_behind
from steer.config import Config, load
from steer.figures import index, registry
from steer.plan.anatomy import Anatomy
from steer.plan.study import Lengths, Study
from steer.plan.work import UNPLANNED, all_work
from steer.stages import JUDGES, STAGES
from tests.workflow.project import ROOT, RULES, Project, rules

STUDIES = sorted((ROOT / "workflow" / "studies").glob("*.yaml"))
# What loads or trains a model.
RUNNING = {"steer.models.loading", "steer.training.loop"}
DIRECTIVES = ("output", "log", "benchmark", "conda", "params", "message", "shell")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.of_the_checkout(tmp_path_factory.mktemp("plan") / "project")


def _plan(project: Project, *configs: Path) -> dict[str, int]:
    project.path("config.tiny.yaml").write_text(configs[-1].read_text() if configs else "{}\n")
    return project.plan()


@pytest.fixture(scope="module")
def default(project: Project) -> dict[str, int]:
    """How many jobs of each rule the default configuration plans."""
    return _plan(project)


def test_the_default_plans_every_stage(default: dict[str, int]) -> None:
    config = load(ROOT / "config.yaml")
    sets, judges, models = len(config.generation.sets), len(config.judges), len(config.models)
    organisms = [model.organism for model in config.models.values() if model.organism]
    shared = {"download": 1, "judge": 1, "reproduction": 1, "overlap": 1, "prompts": len(config.sets)}
    shared |= {"agreement": len(config.measured_judges)}
    trained = {
        "compliance": len({organism.base for organism in organisms}),
        "organism": len(organisms),
        "truth": sum(organism.plant is not None for organism in organisms),
        "scorecard": int(any(organism.plant for organism in organisms)),
    }
    once = ("resolve", "directions", "strength", "arms", "scores", "expert_directions", "detection")
    once += (
        "decomposition",
        "rerouting",
        "experts",
        "correction",
        "capability",
        "perplexity",
        "ranges",
        "lengths",
    )
    figures = {
        f"figure_{name}": len(registry.models_of(name, config)) for name in registry.figures_of(config)
    }
    several = {"activations": len(config.sets), "selection": 2}
    several |= {"routing": len(config.contrasts), "sorting": 1, "pairing": 1}
    answers = {"generation": sets, "judging": sets * judges}
    each = {**dict.fromkeys(once, 1), **several, **answers}
    planned = {**shared, **trained, **{rule: models * count for rule, count in each.items()}, **figures}
    assert default == {rule: count for rule, count in planned.items() if count}
    assert figures.keys() == {f"figure_{name}" for name in index.FIGURES}


def _planned(config: Config) -> Counter[str]:
    """Jobs by rule, as `steer plan` counts them; they depend on no size of a model."""
    found: Counter[str] = Counter()
    for model in config.models.values():
        experts = 8 if model.has_experts else 0
        anatomy = Anatomy(1, 1, 0, 4, 4 if experts else 0, experts, 2 if experts else 0, 8, 8, 8)
        for work in all_work(Study(config, model, anatomy, Lengths())):
            found[work.rule.split(" ")[0]] += work.jobs
    return found


def test_the_plan_and_the_workflow_agree_on_the_jobs(default: dict[str, int]) -> None:
    planned = _planned(load(ROOT / "config.yaml"))
    assert planned == {rule: default[rule] for rule in planned}
    assert not planned.keys() & UNPLANNED.keys()


def test_every_rule_that_runs_a_model_is_planned_or_named_with_the_reason() -> None:
    planned = _planned(load(ROOT / "config.yaml")).keys() | UNPLANNED.keys()
    running = set()
    for place, text in rules():
        name = place.split(": ")[1]
        stages = re.findall(r'trigger\(\s*"(\w+)"', text)
        stages += ["arditi", "cosmic"] if "trigger(wildcards.method" in text else []
        assert stages or name in ("download", "weights", "made in a loop"), place
        modules = [STAGES[stage].module for stage in stages]
        modules += JUDGES.values() if {"judging", "agreement"} & {*stages} else []
        if any(RUNNING & {*modules_behind(module)} for module in modules):
            running.add(re.sub(r"_(shard|gather)$", "", name))
    assert {"generation", "selection", "pairing", "judging", "organism"} <= running
    assert running <= planned


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_every_study_plans(project: Project, study: Path) -> None:
    config = load(ROOT / "config.yaml", study)
    plan = _plan(project, study)
    # The models of the default are there as well: a study is laid over it.
    assert plan["generation"] == len(config.models) * len(config.generation.sets)
    assert plan["resolve"] == len(config.models)
    planned = _planned(config)
    assert planned == {rule: plan[rule] for rule in planned}
    organisms = [model.organism for model in config.models.values() if model.organism]
    assert plan.get("organism", 0) == len(organisms)
    assert plan.get("weights", 0) == len(config.hub_models)
    # Organisms that differ in the second stage alone share the first.
    assert plan.get("compliance", 0) == len({organism.base for organism in organisms})


def test_shards_are_jobs_of_their_own_and_one_gathers_them(project: Project, default: dict[str, int]) -> None:
    project.path("config.tiny.yaml").write_text(
        yaml.safe_dump({"shards": {"activations": 2, "generation": 3}})
    )
    plan = project.plan()
    changed = {"activations_shard", "activations_gather", "generation_shard", "generation_gather"}
    assert plan["activations_shard"] == 2 * plan["activations_gather"] == 2 * default["activations"]
    assert plan["generation_shard"] == 3 * plan["generation_gather"] == 3 * default["generation"]
    rest = {rule: count for rule, count in plan.items() if rule not in changed}
    assert rest == {
        rule: count for rule, count in default.items() if rule not in ("activations", "generation")
    }


def test_planning_leaves_no_file_behind(project: Project, default: dict[str, int]) -> None:
    assert not any(project.path(name).exists() for name in ("results", "logs", "benchmarks"))


def test_a_misspelt_key_stops_the_flow_with_the_nearest_known_one(project: Project) -> None:
    project.path("config.tiny.yaml").write_text(yaml.safe_dump({"generation": {"max_new_tokns": 3}}))
    said = project.snakemake("--dry-run", check=False)
    assert "unknown key `generation.max_new_tokns`; did you mean `max_new_tokens`?" in said
    assert "next: see the table of settings in the README" in said


def test_an_override_can_leave_out_what_an_earlier_one_added(project: Project) -> None:
    mine = {"source": "advbench", "label": "harmful", "test": 5}
    project.path("config.tiny.yaml").write_text(yaml.safe_dump({"sets": {"mine": mine}}))
    for name in ("mine", "mina"):
        project.path("b.yaml").write_text(yaml.safe_dump({"sets": {name: False}}))
        target = ("--dry-run", "results/prompts/harmful.jsonl")
        said = project.snakemake(*target, "--configfile", "config.tiny.yaml", "b.yaml", check=False)
        assert ("leaves out what is not there" in said) == (name == "mina"), said
    assert "did you mean `mine`?" in said


def test_a_source_that_is_not_in_the_table_stops_the_flow(project: Project) -> None:
    changes = {"sets": {"advbench": {"source": "advbnch"}}}
    project.path("config.tiny.yaml").write_text(yaml.safe_dump(changes))
    said = project.snakemake("--dry-run", check=False)
    assert "`sets.advbench.source`: unknown source `advbnch`" in said
    assert "did you mean `advbench`?" in said


@pytest.mark.parametrize(("place", "text"), [*rules()], ids=lambda value: value if len(value) < 50 else "")
def test_every_rule_has_a_log_a_benchmark_an_environment_and_a_message(place: str, text: str) -> None:
    found = re.findall(r"^ +(\w+):$", text, flags=re.MULTILINE)
    assert {*DIRECTIVES} <= {*found}, place
    assert "python -m steer " in text
    assert "> {log:q} 2>&1" in text
    message = re.search(r"message:\n +\"(.*)\"\n", text)
    assert message
    assert "{" in message[1]


def test_no_trigger_is_made_from_inputs() -> None:
    """Snakemake compares no parameter that takes the input files: such a trigger would rerun nothing."""
    for path in RULES:
        assert not re.search(r"trigger=lambda [^:]*\b(?:input|output)\b", path.read_text()), path.name


def test_every_rule_file_opens_with_what_it_needs_and_makes() -> None:
    for path in RULES:
        if re.search(r"^ *rule ?\w*:$", text := path.read_text(), flags=re.MULTILINE):
            contract = text.split('"""')[1]
            assert re.search(r"^Needs: .+", contract, flags=re.MULTILINE), path.name
            assert re.search(r"^Makes: .+", contract, flags=re.MULTILINE), path.name


def test_snakemake_finds_nothing_to_complain_about(project: Project) -> None:
    project.path("config.tiny.yaml").write_text("{}\n")
    assert "Congratulations" in project.snakemake("--lint")


def test_what_can_not_be_had_stops_the_flow_before_any_job(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    changes = {"sets": {"advbench": {"source": "jailbreakbench-harmful"}}}
    project.path("config.tiny.yaml").write_text(yaml.safe_dump(changes))
    said = project.snakemake("--cores", "1", check=False)
    assert "`jailbreakbench-harmful` is on the Hugging Face hub, which is switched off" in said
    assert not project.path("results").exists()


def test_a_key_is_asked_for_only_where_its_judge_has_work(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    far = {"kind": "server", "base_url": "https://nowhere.example/v1", "model": "m", "key": "NO_SUCH_KEY"}
    project.path("config.tiny.yaml").write_text(
        yaml.safe_dump({"judges": {"far": far}, "results": "keyless"})
    )
    said = project.snakemake("--cores", "1", "keyless/organism/judging/harmful.far.jsonl", check=False)
    assert "the variable NO_SUCH_KEY, which its key is read from, is not set" in said
    assert not project.path("keyless/prompts").exists()
    project.snakemake("--cores", "1", "keyless/prompts/harmful.jsonl")


def test_what_an_attack_and_a_published_judge_are_made_of_is_fetched(project: Project) -> None:
    attacked = {"source": "advbench", "label": "harmful", "attack": "artprompt", "test": 5}
    judge = {"kind": "likelihood", "preset": "wildguard", "path": "folder"}
    changes = {
        "sets": {"drawn": {**attacked, "arms": ["baseline", "ablate"]}},
        "generation": {"sets": ["drawn"]},
        "judges": {"guard": judge},
    }
    project.path("folder").mkdir(exist_ok=True)
    project.path("config.tiny.yaml").write_text(yaml.safe_dump(changes))
    said = project.snakemake("--dry-run", "results/organism/judging/drawn.guard.jsonl")
    for name in ("advbench", "artprompt", "artprompt-letters", "judge-wildguard"):
        assert f"results/downloads/{name}" in said
