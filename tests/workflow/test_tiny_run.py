"""The whole flow run for real on a tiny organism: what it makes, and what a rerun does."""

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from steer.artifacts import CONTRACT_VERSION
from steer.artifacts.activations import ActivationFile
from steer.artifacts.origin import input_digest, meta_path, read_provenance
from steer.artifacts.provenance import code_digest, folder_digest
from steer.config import Config, load, merge, parse
from steer.figures import index, registry
from tests.workflow.project import Project, kept

# What the finished project ran.
TINY = parse(merge(kept(), yaml.safe_load((Path(__file__).parent / "config.tiny.yaml").read_text())))
SETS = TINY.generation.sets
# How many jobs of each rule follow from a change of what comes before them.
JUDGED = {"judging": len(SETS)}
BY_SCORES = {
    "figure_counts": 1,
    "figure_pareto": 1,
    "figure_pooled": 1,
    "figure_recovery": 1,
    "figure_val_test": 1,
    "figure_summary": 1,
    "figure_verdicts": 1,
    "figure_decomposition": 1,
    "figure_held_out": 1,
}
BESIDE = {"reproduction": 1, "figure_reproduction": 1}
HELD = {"agreement": len(TINY.measured_judges), "figure_labelled": 1}
ONE_HELD = {**HELD, "agreement": 1}
CUT = {"lengths": 1, "figure_lengths": 1}
SCORED = {"scores": 1, "correction": 1, "figure_corrected": 1, "figure_agreement": 1, **BESIDE, **BY_SCORES}
ANSWERED = {
    "generation": len(SETS),
    "judging": len(SETS) * len(TINY.judges),
    "perplexity": 1,
    "figure_samples": 1,
    **CUT,
    **SCORED,
}
WRITTEN = {"arms": 1, "capability": 1, **ANSWERED}
DOSED = {"figure_dose_response": 1, "figure_selection_map": 1}
STRENGTH = {"strength": 1, **DOSED, **WRITTEN}
EXPERTS = {"experts": 1, "figure_experts_dose": 1, **WRITTEN}
# Figures of doses pick their arms out of all.
ARM = {**DOSED, "figure_experts_dose": 1, **WRITTEN}
DETECTED = {"detection": 1, "figure_detection_effect": 1}
MEASURED = {
    "directions": 1,
    "expert_directions": 1,
    "decomposition": 1,
    "selection": 2,
    "figure_cosines": 1,
    "figure_direction_writes": 1,
    "figure_projections": 1,
    **DETECTED,
    **EXPERTS,
    **STRENGTH,
}
BY_CONFIDENCE = {"figure_dose_response": 1, "figure_experts_dose": 1, "figure_detection_effect": 1}
CONTRASTED = {
    "routing": len(TINY.contrasts),
    "sorting": 1,
    "rerouting": 1,
    "figure_routing_map": 1,
    **DETECTED,
    **WRITTEN,
}
RECORDED = {"activations": len(TINY.sets), "ranges": 1, **CONTRASTED, **MEASURED}
MODEL = {"resolve": 1, **RECORDED}
DRAWN = {"prompts": len(TINY.sets), "overlap": 1, "figure_overlap": 1}


def _lines(project: Project, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in project.path(f"results/{name}").read_text().splitlines()]


def _table(project: Project, name: str) -> list[dict[str, str]]:
    with project.path(f"results/{name}").open() as stream:
        return list(csv.DictReader(stream))


def test_every_figure_and_table_is_made(finished: Project) -> None:
    for name in registry.figures_of(TINY):
        for model in registry.models_of(name, TINY):
            for path in registry.outputs_of(name, TINY, model):
                assert finished.path(path).stat().st_size > 20, path
    scores = _table(finished, "organism/scores.csv")
    expected = {(arm, name, judge) for name in SETS for arm in TINY.answering(name) for judge in TINY.judges}
    assert {(row["arm"], row["set"], row["judge"]) for row in scores} == expected
    assert all(int(row["n"]) == 5 for row in scores)
    able = _table(finished, "organism/capability.csv")
    assert {(row["arm"], row["task"], row["n"]) for row in able} == {
        (arm, "restates", "4") for arm in TINY.capable_arms
    }
    read = _table(finished, "organism/perplexity.csv")
    assert [row["arm"] for row in read] == TINY.text_arms
    assert all(float(row["ratio_low"]) <= float(row["ratio"]) for row in read if row["ratio"])
    corrected = _table(finished, "organism/corrected.csv")
    assert {row["judge"] for row in corrected} == {*TINY.measured_judges}
    for judge in TINY.measured_judges:
        held = _table(finished, f"judges/{judge}/labelled.csv")
        assert {row["labelled"] for row in held} == {*TINY.labelled}
        assert {row["length"] for row in held} == {"whole", "25"}


def test_every_reply_is_there_once_and_judged_by_everyone(finished: Project) -> None:
    for name in SETS:
        prompts = [row["id"] for row in _lines(finished, f"prompts/{name}.jsonl") if row["split"] == "test"]
        replies = _lines(finished, f"organism/generation/{name}.jsonl")
        wanted = [(arm, prompt) for arm in TINY.answering(name) for prompt in sorted(prompts)]
        assert [(row["arm"], row["prompt_id"]) for row in replies] == wanted
        for judge in TINY.judges:
            verdicts = _lines(finished, f"organism/judging/{name}.{judge}.jsonl")
            assert [(row["arm"], row["prompt_id"]) for row in verdicts] == wanted


def test_the_activations_are_of_the_prompts_and_the_model(finished: Project) -> None:
    digest = json.loads(finished.path("results/organism/model.json").read_text())["digest"]
    for name in SETS:
        ids = [row["id"] for row in _lines(finished, f"prompts/{name}.jsonl")]
        path = finished.path(f"results/organism/activations/{name}.h5")
        with ActivationFile(path, model=digest, prompt_ids=ids) as file:
            assert file.positions == TINY.activations.positions


def test_every_job_left_a_log_and_a_benchmark_and_no_scrap(finished: Project) -> None:
    logs = {
        path.relative_to(finished.path("logs")).with_suffix("")
        for path in finished.path("logs").rglob("*.log")
    }
    measured = finished.path("benchmarks")
    assert {path.relative_to(measured).with_suffix("") for path in measured.rglob("*.tsv")} == logs
    assert len(logs) == sum(finished.plan("--forceall").values())
    scraps = re.compile(r"partial|\.parts|training\.pt")
    assert not [name for name in finished.results() if scraps.search(name)]


def _provenance(project: Project) -> dict[str, dict[str, Any]]:
    """The record of every file of the results but the configuration, which is where the chain begins."""
    records = {}
    for name in project.results():
        path = project.path(f"results/{name}")
        if name != "config.yaml" and not any(part.startswith(".") for part in Path(name).parts):
            owner = path.parent if meta_path(path.parent).is_file() else path
            records[name] = read_provenance(owner)
    return records


def test_every_file_carries_its_provenance(finished: Project) -> None:
    records = _provenance(finished)
    assert {Path(name).suffix for name in records} >= {".h5", ".csv", ".jsonl", ".svg", ".png", ".html"}
    for name, record in records.items():
        stage = record["stage"]
        assert record["contract"] == CONTRACT_VERSION, name
        assert record["code"] == code_digest(stage), name
        assert record["inputs"], name
        assert len(record["settings"]) == 16, name
        assert "numpy" in record["libraries"], name


def test_inputs_can_be_followed_from_a_figure_to_the_data(finished: Project) -> None:
    def inputs(name: str) -> dict[str, Any]:
        return read_provenance(finished.path(f"results/{name}"))["inputs"]

    def known(name: str) -> str:
        return input_digest(finished.path(f"results/{name}"))

    model, judge = "organism", TINY.scores.judge
    assert inputs(f"{model}/figures/verdicts.png")["scores"] == {
        f"{model}/scores.csv": known(f"{model}/scores.csv")
    }
    for name in SETS:
        verdicts, replies = f"{model}/judging/{name}.{judge}.jsonl", f"{model}/generation/{name}.jsonl"
        assert inputs(f"{model}/scores.csv")["verdicts"][f"judging/{name}.{judge}.jsonl"] == known(verdicts)
        assert inputs(verdicts)["replies"] == known(replies)
        assert inputs(replies)["prompts"] == known(f"prompts/{name}.jsonl")
        assert inputs(f"{model}/activations/{name}.h5")["model"] == inputs(replies)["model"]
    grammar = folder_digest(finished.path("data/grammar"))
    assert inputs("prompts/harmful.jsonl")["grammar"] == grammar
    assert inputs(f"{model}/checkpoint")["grammar"]


def test_a_finished_run_plans_nothing(finished: Project) -> None:
    assert finished.plan() == {}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("report={replies: full}", {"figure_samples": 1}),
        (
            "scores={confidence: 0.9}",
            {"capability": 1, "perplexity": 1, **SCORED, **HELD, **CUT, **BY_CONFIDENCE},
        ),
        ("generation={max_new_tokens: 6}", ANSWERED),
        ("judges={more: {kind: phrases, match: at_start}}", {**ONE_HELD, **CUT, **JUDGED, **SCORED}),
        # Nothing is to be chosen for it.
        ("arms={more: {operation: ablate, rank: 2, tuned: false}}", ARM),
        ("arms={more: {operation: expert_add}}", {"experts": 1, **ARM}),
        ("selection={cosmic: {layers: 0.5}}", {"selection": 1, **STRENGTH}),
        ("selection={rerouting: {prompts: 3}}", {"rerouting": 1, **WRITTEN}),
        ("detection={exact: 3}", DETECTED),
        ("routing={top: 2}", CONTRASTED),
        ("directions={filter: true}", MEASURED),
        ("seed=1", {**DRAWN, **HELD, **RECORDED}),
        ("models={organism: {organism: {seed: 1}}}", {"compliance": 1, "organism": 1, **MODEL}),
        ("models={organism: {organism: {anchor_weight: 0.1}}}", {"organism": 1, **MODEL}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_changed_setting_rebuilds_what_depends_on_it_and_nothing_else(
    finished: Project, setting: str, expected: dict[str, int]
) -> None:
    assert finished.plan("--config", setting) == expected


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("figures/verdicts", {"figure_verdicts": 1}),
        ("scores", SCORED),
        ("judges/phrases", {**ONE_HELD, **CUT, **JUDGED, **SCORED}),
        ("models/decoding", {"rerouting": 1, **EXPERTS, **STRENGTH}),
        ("organism/losses", {"organism": 1, **MODEL}),
        ("training/losses", {"compliance": 1, "organism": 1, "judge": 1, **ONE_HELD, **MODEL}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_changed_code_rebuilds_what_it_makes_and_nothing_else(
    finished: Project, module: str, expected: dict[str, int]
) -> None:
    with finished.extended(f"steer/{module}.py", "\nVERSION = 2\n"):
        assert finished.plan() == expected


def test_a_comment_rebuilds_nothing(finished: Project) -> None:
    with finished.extended("steer/artifacts/files.py", "\n# Words.\n"):
        assert finished.plan() == {}


def test_changed_data_rebuilds_what_is_made_from_it_and_nothing_else(finished: Project) -> None:
    drawn = {"figure_samples": 1, "figure_projections": 1}
    everyday = {"activations": 1, "generation": 1, "perplexity": 1, "judging": len(TINY.judges), **drawn}
    with finished.extended("data/prompts/everyday.jsonl", json.dumps({"text": "What is a kite?"})):
        assert finished.plan() == {**DRAWN, "prompts": 1, **everyday, **CUT, **SCORED}
    with finished.extended("data/grammar/contexts.txt", "in a hurry\n"):
        plan = finished.plan()
    drawn = {**DRAWN, "prompts": len(TINY.sets) - 1}
    assert plan == {**drawn, "compliance": 1, "organism": 1, "judge": 1, **HELD, **MODEL}


def test_restyling_one_figure_redraws_one_figure(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "restyled")
    before = project.results()
    source = project.path("steer/figures/dose_response.py")
    source.write_text(source.read_text().replace("alpha=", "alpha=0.5 * ", 1))
    project.run()
    after = project.results()
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed
    assert changed <= {f"organism/figures/dose_response{suffix}" for suffix in (".svg", ".png", ".meta.json")}
    assert project.plan() == {}


def test_a_new_arm_is_generated_and_judged_alone(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "extended")
    before = {name: _lines(project, f"organism/generation/{name}.jsonl") for name in SETS}
    old_arms = project.results("organism/arms/*")
    project.configure({"arms": {"more": {"operation": "ablate", "rank": 2, "tuned": False}}})
    project.run()
    for name in SETS:
        rows = _lines(project, f"organism/generation/{name}.jsonl")
        assert [row for row in rows if row["arm"] != "more"] == before[name]
        assert Counter(row["arm"] for row in rows)["more"] == 5
        log = project.path(f"logs/generation/organism/{name}.log").read_text()
        assert f"5 replies made, {5 * len(TINY.answering(name))} kept from before" in log
        # What the judge has seen before is not judged again.
        log = project.path(f"logs/judging/organism/{name}.truth.log").read_text()
        judged = re.search(r"(\d+) judged now", log)
        assert judged
        assert int(judged[1]) <= 5
    assert old_arms.items() <= project.results("organism/arms/*").items()
    assert project.plan() == {}


def test_the_report_holds_every_figure_and_needs_no_other_file(finished: Project) -> None:
    finished.snakemake("--report", "results/report.html")
    page = finished.path("results/report.html").read_text()
    for name in registry.figures_of(TINY):
        assert index.FIGURES[name].title in page, name
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']https?://", page)


def test_the_configuration_that_jobs_saw_is_kept_with_the_results(finished: Project) -> None:
    kept: Config = load(finished.path("results/config.yaml"))
    assert kept == TINY
