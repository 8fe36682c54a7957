"""Passes and tokens in a plan are those of a run: of every stage, the proof, pairs and the causal check."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steer import pairing
from steer.artifacts.facts import TRUTH_FILE, Truth
from steer.artifacts.files import write_json
from steer.config import PairingSettings, load
from steer.models.loading import LoadedModel
from steer.plan.anatomy import count
from steer.plan.study import Lengths, Study
from steer.plan.work import all_work, trial_count
from steer.plan.work import generation as planned_generation
from steer.plan.work import pairing as planned_pairing
from steer.plan.work import resolve as planned_proof
from steer.plan.work import truth as planned_truth
from steer.truth.trials import trials
from steer.truth.usage import Usage
from tests import by_hand
from tests.study import make_pairs, make_study
from tests.tiny import build_model

ROOT = Path(__file__).parents[2]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Tokens of every row of every batch that is read."""
    seen: list[list[int]] = []
    batch = LoadedModel.batch

    def watched(self: LoadedModel, rows: Any) -> Any:
        seen.append([len(row) for row in rows])
        return batch(self, rows)

    monkeypatch.setattr(LoadedModel, "batch", watched)
    # Every command repeats it, and its passes share a batch.
    monkeypatch.setattr("steer.models.study.prove", lambda _: None)
    return seen


@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe_mixed", "llama"])
def test_a_checkpoint_is_proved_in_as_many_passes_as_planned(
    family: str, checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    forward = LoadedModel.forward

    def watched(self: LoadedModel, batch: Any, *rest: Any) -> Any:
        seen.append(batch.input_ids.numel())
        return forward(self, batch, *rest)

    monkeypatch.setattr(LoadedModel, "forward", watched)
    monkeypatch.chdir(tmp_path)
    by_hand.make_folder(tmp_path, checkpoint(family))
    by_hand.resolve()
    config = load("config.yaml")
    anatomy = count(build_model(family), 0 if family == "llama" else 8)
    planned = planned_proof(Study(config, config.models["tiny"], anatomy, Lengths()))
    assert (planned.jobs, planned.passes, planned.read) == (1, len(seen), sum(seen))


def test_passes_and_tokens_are_those_of_a_run(
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    passes: list[list[int]],
) -> None:
    monkeypatch.chdir(tmp_path)
    by_hand.make_folder(tmp_path, checkpoint("olmoe"))
    config = load("config.yaml")
    anatomy = count(build_model("olmoe"), 8)
    mean = 40
    works = {
        work.rule: work for work in all_work(Study(config, config.models["tiny"], anatomy, Lengths(mean)))
    }
    steps: dict[str, Callable[[], None]] = {
        "activations": by_hand.activations,
        "directions": lambda: by_hand.run(*by_hand.directions()),
        "selection (arditi)": lambda: by_hand.run(*by_hand.selection("arditi")),
        "selection (cosmic)": lambda: by_hand.run(*by_hand.selection("cosmic")),
        "strength": lambda: by_hand.run(*by_hand.selection("strength")),
        "arms": lambda: by_hand.run(*by_hand.arms()),
        "generation": lambda: by_hand.run(*by_hand.generation()),
    }
    by_hand.prompts()
    by_hand.resolve()
    for rule, step in steps.items():
        passes.clear()
        step()
        if rule not in works:
            assert not passes, rule
            continue
        # By hand one of the two sets is answered.
        jobs = works[rule].jobs if rule == "generation" else 1
        rows, planned = sum(map(len, passes)) * jobs, works[rule].read // mean
        # Neither position has a candidate ahead of the first of four layers.
        least = 0.7 if "arditi" in rule or "cosmic" in rule else 1
        assert least * planned <= rows <= planned, rule
        assert least * works[rule].passes <= len(passes) * jobs <= works[rule].passes, rule
    # Every sample is a reply of its own, written and judged.
    drawn = by_hand.CONFIG["generation"] | {"temperature": 1.0, "samples": 3}
    by_hand.configure(tmp_path, generation=drawn)
    (greedy,) = (work for work in works.values() if work.rule == "generation")
    config = load("config.yaml")
    sampled = planned_generation(Study(config, config.models["tiny"], anatomy, Lengths(mean)))
    counts = [(work.passes, work.read, work.written, work.replies) for work in (greedy, sampled)]
    assert counts[1] == tuple(3 * count for count in counts[0])
    passes.clear()
    by_hand.run(*by_hand.generation())
    assert len(passes) * sampled.jobs == sampled.passes
    assert sum(map(len, passes)) * sampled.jobs == sampled.read // mean


def test_pairs_are_read_as_often_as_planned(
    tiny: Callable[[str], LoadedModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    passes: list[list[int]],
) -> None:
    loaded = tiny("olmoe")
    study = make_study(tmp_path / "study", loaded)
    sets = make_pairs(tmp_path, 6)
    refuse = [SimpleNamespace(text="I'm sorry, but I can't help with that.")] * 6

    def refused(model: LoadedModel, prompts: Any, *_: Any) -> Any:
        model.batch(prompts)
        return refuse[: len(prompts)]

    monkeypatch.setattr(pairing, "generate", refused)
    settings = PairingSettings(contrast="response", prompts=5)
    pairing.write_pairing(study.path("model.json"), sets, tmp_path / "p.csv", study.settings, settings, 3)
    config = load(ROOT / "config.yaml").model_copy(update={"pairing": settings})
    model = config.models["organism"].model_copy(update={"batch_size": study.settings.batch_size})
    planned = planned_pairing(Study(config, model, count(loaded.model, loaded.experts), Lengths()))
    assert (planned.passes, planned.replies) == (len(passes), 5)
    assert sum(map(len, passes)) == 9 * 5


def test_the_causal_check_tries_as_much_as_planned(
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    passes: list[list[int]],
) -> None:
    monkeypatch.chdir(tmp_path)
    by_hand.make_folder(tmp_path, checkpoint("olmoe"))
    by_hand.configure(tmp_path, truth={"prompts": 1, "controls": 2, "max_new_tokens": 3})
    shutil.copytree(ROOT / "data" / "grammar", tmp_path / "data" / "grammar")
    known = Truth("attention", "distributed")
    write_json(tmp_path / "checkpoint" / TRUTH_FILE, asdict(known))
    by_hand.prompts()
    by_hand.resolve()
    by_hand.activations()
    passes.clear()
    files = [f"results/tiny/activations/{name}.h5" for name in ("bad", "good")]
    sets = [f"results/prompts/{name}.jsonl" for name in ("bad", "good")]
    told = ("--prompt-sets", *sets, "--activations", *files, "--out", "results/tiny/truth.csv")
    by_hand.run("truth", *by_hand.MODEL, *told)
    config = load("config.yaml")
    study = Study(config, config.models["tiny"], count(build_model("olmoe"), 8), Lengths(1))
    planned = planned_truth(study, known)
    assert planned.passes == len(passes)
    # A gradient counts three times.
    assert planned.read == sum(map(len, passes)) + 2 * 2


@pytest.mark.parametrize(
    "known",
    [
        Truth("routed", "experts", ((1, 3), (2, 5))),
        Truth("decoy_content", "experts", ((2, 5),), ((1, 3),)),
        Truth("decoy_head", "heads", ((3, 1),), ((1, 3),)),
        Truth("attention", "distributed"),
    ],
    ids=lambda known: known.kind,
)
def test_trials_of_the_causal_check_are_counted_as_they_are_made(known: Truth) -> None:
    usage = {(layer, expert): Usage(0.2, 0.1) for layer in range(4) for expert in range(8)}
    assert trial_count(known, 6) == len(trials(known, usage, 4, 4, 6))
