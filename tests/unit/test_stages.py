import re
from pathlib import Path
from typing import Any

import pytest

from steer.artifacts.provenance import code_digest, modules_behind
from steer.config import Config, load, merge, parse
from steer.figures import index, registry
from steer.stages import JUDGES, STAGES, settings_of, trigger

ROOT = Path(__file__).parents[2]
DEFAULT = load(ROOT / "config.yaml")
NAMES = {"model": "organism", "set": "harmful", "judge": "embedded", "contrast": "prompt"}
ALL = frozenset(STAGES) - {"download", "weights"}


def _triggers(config: Config) -> dict[str, str]:
    return {stage: trigger(stage, config, **NAMES) for stage in STAGES}


def _changed(changes: dict[str, Any]) -> set[str]:
    """The stages that a change of the default configuration triggers."""
    before = _triggers(DEFAULT)
    after = _triggers(parse(merge(DEFAULT.model_dump(mode="json"), changes)))
    return {stage for stage in STAGES if before[stage] != after[stage]}


MODEL = {
    "rerouting",
    "resolve",
    "activations",
    "expert_directions",
    "arditi",
    "cosmic",
    "strength",
    "generation",
}
MODEL |= {"pairing", "detection", "decomposition", "truth", "experts", "capability", "perplexity"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, set()),
        ({"report": {"replies": "full"}}, set()),
        ({"download": {"timeout": 5}}, set()),
        ({"results": "elsewhere"}, set()),
        (
            {"seed": 1},
            {
                *("agreement", "correction", "prompts", "routing", "detection", "scores", "fluency"),
                *("capability", "perplexity", "lengths", "questions"),
            },
        ),
        ({"sets": {"harmful": {"test": 7}}}, {"prompts"}),
        ({"grammar": {"held_out": 1}}, {"prompts"}),
        ({"overlap": {"threshold": 0.5}}, {"overlap"}),
        ({"sets": {"harmless": {"test": 7}}}, set()),
        ({"models": {"organism": {"organism": {"seed": 1}}}}, {"organism", *MODEL}),
        ({"models": {"organism": {"batch_size": 7}}}, MODEL),
        ({"models": {"organism": {"engine": "vllm"}}}, {"activations", "generation"}),
        ({"models": {"other": {"path": "x"}}}, set()),
        ({"activations": {"dtype": "float16"}}, {"activations"}),
        ({"directions": {"filter": False}}, {"directions"}),
        ({"routing": {"top": 2}}, {"routing", "pairing"}),
        ({"pairing": {"prompts": 9}}, {"pairing"}),
        ({"detection": {"exact": 2}}, {"detection"}),
        ({"routing": {"stability": 0.5}}, {"sorting"}),
        ({"contrasts": {"prompt": {"second": "everyday"}}}, {"routing", "published", "scores"}),
        ({"contrasts": {"more": {"first": "advbench", "second": "everyday"}}}, {"scores"}),
        ({"selection": {"arditi": {"kl_threshold": 9.0}}}, {"arditi"}),
        ({"selection": {"cosmic": {"layers": 0.5}}}, {"cosmic"}),
        ({"selection": {"strength": {"prompts": 5}}}, {"strength"}),
        ({"selection": {"rerouting": {"activated": [3]}}}, {"rerouting"}),
        ({"selection": {"rerouting": {"induce_on": "everyday"}}}, {"rerouting"}),
        ({"arms": {"more": {"operation": "ablate"}}}, {"strength", "arms", "scores"}),
        ({"arms": {"more": {"operation": "ablate", "tuned": False}}}, {"arms", "scores"}),
        ({"arms": {"more": {"operation": "expert_add"}}}, {"experts", "arms", "scores"}),
        ({"arms": {"more": {"operation": "expert_add", "like": "expert", "seed": 7}}}, {"arms", "scores"}),
        ({"generation": {"max_new_tokens": 9}}, {"generation"}),
        ({"generation": {"sets": ["harmful"]}}, set()),
        ({"judges": {"more": {"kind": "phrases"}}}, {"lengths"}),
        ({"judges": {"embedded": {"steps": 3}}}, {"agreement", "judge", "judging", "lengths"}),
        ({"judges": {"phrases": {"match": "at_start"}}}, {"lengths"}),
        ({"labelled": {"grammar": {"count": 9}}}, {"agreement"}),
        ({"agreement": {"correct_by": "general"}}, {"correction"}),
        (
            {"scores": {"confidence": 0.9}},
            {
                *("agreement", "correction", "fluency", "scores", "reproduction", "capability"),
                *("perplexity", "lengths"),
            },
        ),
        ({"capability": {"tasks": {"more": {"limit": 9}}}}, {"capability"}),
        ({"reproduction": {"stand_in": "routed"}}, {"reproduction"}),
        ({"truth": {"prompts": 9}}, {"truth"}),
    ],
    # Sets print in an order of their own in every process, and parallel runs compare names.
    ids=lambda value: str(sorted(value)) if isinstance(value, set | frozenset) else str(value),
)
def test_a_changed_setting_triggers_the_stages_that_read_it_and_no_other(
    changes: dict[str, Any], expected: set[str]
) -> None:
    assert _changed(changes) == expected


def test_only_sampled_replies_depend_on_how_they_are_drawn() -> None:
    assert {*settings_of("generation", DEFAULT, NAMES)} == {"models.{model}", "generation.max_new_tokens"}
    hot = {"generation": {"temperature": 0.7}}
    assert _changed(hot) == {"generation"}
    others = [{"seed": 1}, {"generation": {"top_p": 0.9}}, {"generation": {"samples": 3}}]
    changed = [parse(merge(DEFAULT.model_dump(mode="json"), merge(hot, one))) for one in [{}, *others]]
    assert len({trigger("generation", config, **NAMES) for config in changed}) == 4


def test_the_judge_of_the_trials_triggers_the_choices_that_it_judges() -> None:
    other = {"selection": {"strength": {"judge": "embedded"}}}
    assert _changed(other) == {"strength", "experts"}
    before = trigger("strength", parse(merge(DEFAULT.model_dump(mode="json"), other)), **NAMES)
    more = merge(other, {"judges": {"embedded": {"seed": 5}}})
    assert trigger("strength", parse(merge(DEFAULT.model_dump(mode="json"), more)), **NAMES) != before


def test_the_judge_of_rerouting_triggers_it_by_its_settings_too() -> None:
    other = {"selection": {"rerouting": {"judge": "embedded"}}}
    assert _changed(other) == {"rerouting"}
    before = trigger("rerouting", parse(merge(DEFAULT.model_dump(mode="json"), other)), **NAMES)
    more = merge(other, {"judges": {"embedded": {"seed": 5}}})
    assert trigger("rerouting", parse(merge(DEFAULT.model_dump(mode="json"), more)), **NAMES) != before


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_every_stage_depends_on_its_own_code(stage: str) -> None:
    assert code_digest(STAGES[stage].module) in trigger(stage, DEFAULT, **NAMES)
    assert (ROOT / Path(*STAGES[stage].module.split("."))).with_suffix(".py").is_file()


def test_a_verdict_depends_on_the_code_of_its_own_judge() -> None:
    found = {judge: trigger("judging", DEFAULT, judge=judge) for judge in DEFAULT.judges}
    modules = {"truth": "truth", "phrases": "phrases", "embedded": "likelihood"}
    for judge, text in found.items():
        for other, module in modules.items():
            assert (code_digest(f"steer.judges.{module}") in text) == (judge == other)


def test_every_rule_that_runs_a_stage_names_the_trigger_of_that_stage() -> None:
    text = "\n".join(path.read_text() for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))
    used = {*re.findall(r'trigger\("(\w+)"', text)}
    # Two methods share the rule `selection`, which asks for the trigger of its own.
    assert "trigger(wildcards.method" in text
    assert used | {"arditi", "cosmic"} == ALL


def test_every_figure_depends_on_its_own_code_alone() -> None:
    for name in index.FIGURES:
        others = {registry.module_of(other) for other in index.FIGURES if other != name}
        source = (ROOT / Path(*registry.module_of(name).split("."))).with_suffix(".py").read_text()
        assert not [other for other in others if re.search(rf"\b{re.escape(other)}\b", source)]


def test_only_a_set_of_own_refusals_depends_on_the_phrases_that_tell_them() -> None:
    own = {"source": "own.jsonl", "label": "harmful", "train": 5, "target": "refusal"}
    phrases = code_digest(JUDGES["phrases"])
    for refusals, depends in (("results/m/generation/s.jsonl", True), ("fixed.txt", False)):
        changed = {"sets": {"own": {**own, "refusals": refusals}}}
        config = parse(merge(DEFAULT.model_dump(mode="json"), changed))
        assert (phrases in trigger("prompts", config, set="own")) == depends
    assert "steer.judges.phrases" not in modules_behind("steer.prompts")


def test_a_set_from_a_file_depends_on_the_sets_that_it_is_compared_with() -> None:
    own = {"source": "own.jsonl", "label": "harmful", "train": 5}
    answered = {"sets": [*DEFAULT.generation.sets, "own"]}
    changed = {"sets": {"own": own}, "generation": answered}
    before = parse(merge(DEFAULT.model_dump(mode="json"), changed))
    for changes, differs in (
        ({"sets": {"everyday": {"test": 7}}}, True),
        ({"overlap": {"threshold": 0.5}}, True),
        ({"sets": {"harmless": {"test": 7}}}, False),
    ):
        after = parse(merge(before.model_dump(mode="json"), changes))
        assert (trigger("prompts", before, set="own") != trigger("prompts", after, set="own")) == differs
