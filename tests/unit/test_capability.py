"""Tasks of lm-evaluation-harness run for real by tiny models, steered and not."""

import csv
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from steer.artifacts.arms import write_arm
from steer.artifacts.files import write_jsonl
from steer.capability import running, tasks
from steer.capability.harness import SteeredLM
from steer.capability.running import measure
from steer.capability.table import table
from steer.capability.tasks import find_tasks, run_task
from steer.config.capability import PRESETS, CapabilitySettings, TaskSettings
from steer.errors import SteerError
from steer.grammar import Grammar
from steer.models.chat import Chat, fold_system, render_turns
from steer.models.decoding import generate
from steer.models.interventions import Arm, Operation
from steer.models.loading import LoadedModel
from steer.rates import Method
from tests.local_task import lines
from tests.study import Study, make_study
from tests.tiny import HIDDEN

ROOT = Path(__file__).parents[2]
TASKS = {
    "choices": "output_type: multiple_choice\ndoc_to_choice: '{{choices}}'\ndoc_to_target: '{{answer}}'\n",
    "exact": "output_type: generate_until\ndoc_to_target: '{{gold}}'\n"
    "generation_kwargs: {until: ['b'], max_gen_toks: 6, do_sample: false}\n"
    "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n",
    "rolling": "output_type: loglikelihood_rolling\n",
}
METRICS = {
    "choices": "metric_list: [{metric: acc}, {metric: acc_norm}]\n",
    "rolling": "metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]\n",
}


def _docs(count: int) -> list[dict[str, Any]]:
    texts = ["which comes next", "say it", "one, two", "a longer question than the others are"]
    return [
        {"q": f"{texts[at % 4]} {at}", "choices": ["x", "y y", f"z{at}"], "answer": at % 3, "gold": "x"}
        for at in range(count)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of own tasks, one of each kind of request, with their data."""
    made = tmp_path / "tasks"
    write_jsonl(made / "docs.jsonl", _docs(7))
    for name, text in TASKS.items():
        text_of = (
            "doc_to_text: ''\ndoc_to_target: '{{q}}'\n" if name == "rolling" else "doc_to_text: '{{q}}'\n"
        )
        common = f"task: {name}\ndataset_path: json\ntest_split: test\ntarget_delimiter: ''\n"
        data = f"dataset_kwargs: {{data_files: {{test: {made}/docs.jsonl}}}}\n"
        (made / f"{name}.yaml").write_text(common + data + text_of + text + METRICS.get(name, ""))
    return made


def _arm(coefficient: float) -> Arm:
    vector = torch.linspace(-4, 4, HIDDEN)
    return Arm(f"add {coefficient:g}", (Operation("add", "v", 1, float(coefficient)),), {"v": vector})


def _run(loaded: LoadedModel, arm: Arm, folder: Path, name: str) -> tuple[Any, Any]:
    found = find_tasks({name: TaskSettings()}, folder)
    return run_task(SteeredLM(loaded, arm, 4), found[name], None)


def test_the_unsteered_model_scores_as_the_harness_s_own_wrapper_has_it(
    tiny: Callable[[str], LoadedModel],
) -> None:
    loaded = tiny("olmoe")
    own = SteeredLM(loaded, Arm("baseline"), 3)
    theirs = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=1, add_bos_token=False)
    pairs = [("a question:", " yes"), ("a question:", " no, never"), ("other", "x"), ("", "alone")]
    asked = [Instance("loglikelihood", {}, pair, at) for at, pair in enumerate(pairs)]
    for (mine, my_best), (total, best) in zip(
        own.loglikelihood(asked, disable_tqdm=True),
        theirs.loglikelihood(asked, disable_tqdm=True),
        strict=True,
    ):
        assert mine == pytest.approx(total, abs=1e-3)
        assert my_best == best
    # Longer than what the model reads at once.
    texts = ["short", "a text of many tokens " * 40]
    asked = [Instance("loglikelihood_rolling", {}, (text,), at) for at, text in enumerate(texts)]
    assert own.loglikelihood_rolling(asked) == pytest.approx(
        theirs.loglikelihood_rolling(asked, disable_tqdm=True), rel=1e-4
    )


@pytest.mark.parametrize("name", [*TASKS])
def test_an_arm_of_strength_zero_scores_as_the_baseline_to_the_bit_and_another_does_not(
    tiny: Callable[[str], LoadedModel], folder: Path, name: str
) -> None:
    loaded = tiny("olmoe")
    base, zero, strong = (_run(loaded, arm, folder, name) for arm in (Arm("baseline"), _arm(0), _arm(8)))
    assert base == zero
    assert [row["asked"] for row in base[1]] == [row["asked"] for row in strong[1]]
    if name == "rolling":
        assert base[0] != strong[0]
        assert all(row["values"] == {} for row in base[1])
    else:
        assert len(base[1]) == 7


def test_answers_are_chosen_by_likelihood_behind_the_chat_template(
    tiny: Callable[[str], LoadedModel], folder: Path
) -> None:
    loaded = tiny("qwen3_moe")
    _, rows = _run(loaded, Arm("baseline"), folder, "choices")
    for row, doc in zip(rows, _docs(7), strict=True):
        ids = loaded.encode(doc["q"])
        totals = []
        for choice in doc["choices"]:
            reply = loaded.tokenizer.encode(choice, add_special_tokens=False)
            with torch.inference_mode():
                logits = loaded.model(torch.tensor([[*ids, *reply]])).logits[0].double().log_softmax(-1)
            totals.append(sum(float(logits[len(ids) - 1 + at, token]) for at, token in enumerate(reply)))
        assert row["values"]["acc"] == float(int(np.argmax(totals)) == doc["answer"])
        normed = [total / len(choice) for total, choice in zip(totals, doc["choices"], strict=True)]
        assert row["values"]["acc_norm"] == float(int(np.argmax(normed)) == doc["answer"])


def test_generated_answers_are_the_steered_model_s_up_to_a_stop(tiny: Callable[[str], LoadedModel]) -> None:
    loaded, arm = tiny("olmoe"), _arm(3)
    model = SteeredLM(loaded, arm, 2)
    texts = [model.apply_chat_template([{"role": "user", "content": text}]) for text in ("a", "bb b", "c")]
    asked = [Instance("generate_until", {}, (text, {"max_gen_toks": 8}), 0) for text in texts]
    plain = model.generate_until(asked)
    for text, found in zip(["a", "bb b", "c"], plain, strict=True):
        assert found == generate(loaded, [loaded.encode(text)], [arm], 8)[0].text
    stop = plain[0][2:3]
    asked = [Instance("generate_until", {}, (texts[0], {"until": [stop], "max_gen_toks": 8}), 0)]
    assert model.generate_until(asked) == [plain[0][: plain[0].index(stop)]]


@pytest.mark.parametrize("settings", [{"do_sample": True}, {"do_sample": True, "temperature": 0.7}])
def test_a_task_that_samples_is_refused(tiny: Callable[[str], LoadedModel], settings: dict[str, Any]) -> None:
    asked = [Instance("generate_until", {}, ("a", settings), 0)]
    with pytest.raises(SteerError, match="samples its answers"):
        SteeredLM(tiny("olmoe"), Arm("baseline"), 2).generate_until(asked)


def test_what_the_model_can_t_read_at_once_is_an_error(tiny: Callable[[str], LoadedModel]) -> None:
    model = SteeredLM(tiny("olmoe"), Arm("baseline"), 2)
    with pytest.raises(SteerError, match=r"700 tokens, and the model reads 512"):
        model.loglikelihood([Instance("loglikelihood", {}, ("a" * 700, "b"), 0)], disable_tqdm=True)
    asked = [Instance("generate_until", {}, ("a" * 400, {"max_gen_toks": 200}), 0)]
    with pytest.raises(SteerError, match=r"600 tokens, and the model reads 512"):
        model.generate_until(asked)


def test_worked_examples_are_turns_and_a_system_turn_finds_its_place(
    tiny: Callable[[str], LoadedModel],
) -> None:
    tokenizer = tiny("olmoe").tokenizer
    turns = [
        {"role": "system", "content": "task"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
    ]
    joined = render_turns("m", tokenizer, Chat("own"), turns, open_reply=False)
    assert joined == (
        "<|im_start|>system\nown\n\ntask<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na"
    )
    assert fold_system(turns) == [{"role": "user", "content": "task\n\nq"}, turns[2]]
    assert fold_system(turns[1:]) == turns[1:]


@pytest.fixture
def study(tiny: Callable[[str], LoadedModel], tmp_path: Path) -> Study:
    made = make_study(tmp_path / "study", tiny("olmoe"), 3)
    for arm in (Arm("baseline"), _arm(0), _arm(8)):
        write_arm(made.path(f"{arm.name}.safetensors"), arm, model=made.facts.digest, provenance={})
    return made


def _measure(study: Study, folder: Path, names: tuple[str, ...], **limits: int) -> list[dict[str, str]]:
    wanted = CapabilitySettings(
        tasks={name: TaskSettings(**limits) for name in ("choices", "exact")}, folder=str(folder)
    )
    paths = [study.path(f"{name}.safetensors") for name in names]
    files = (study.path("capability.csv"), study.path("capability.jsonl"))
    measure(study.path("model.json"), paths, *files, study.settings, wanted, Method(resamples=100))
    with files[0].open() as stream:
        return list(csv.DictReader(stream))


def test_the_table_has_intervals_and_tests_against_the_baseline(
    study: Study, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = _measure(study, folder, ("baseline", "add 0"))
    by = {(row["arm"], row["task"], row["metric"]): row for row in rows}
    assert len(by) == len(rows) == 6
    for row in rows:
        assert row["n"] == "7"
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
    zero, base = by["add 0", "choices", "acc"], by["baseline", "choices", "acc"]
    assert (zero["value"], zero["questions"]) == (base["value"], base["questions"])
    assert (zero["difference"], zero["p"], base["difference"]) == ("0", "1", "")
    questions = [json.loads(line) for line in study.path("capability.jsonl").read_text().splitlines()]
    assert len(questions) == 2 * 2 * 7
    # A new arm runs alone; the others are kept.
    ran = []
    run = running.run_task
    monkeypatch.setattr(
        running, "run_task", lambda model, *rest: ran.append(model.arm.name) or run(model, *rest)
    )
    more = _measure(study, folder, ("baseline", "add 0", "add 8"))
    assert ran == ["add 8", "add 8"]
    before = [{key: value for key, value in row.items() if key != "p_holm"} for row in rows]
    kept = [{key: value for key, value in row.items() if key != "p_holm"} for row in more]
    assert kept[: len(before)] == before
    _measure(study.on("auto"), folder, ("baseline",))
    assert ran[2:] == ["baseline", "baseline"]


def test_the_mean_and_its_error_are_the_harness_s_own(
    tiny: Callable[[str], LoadedModel], folder: Path
) -> None:
    scores, rows = _run(tiny("olmoe"), Arm("baseline"), folder, "choices")
    made = table([{"arm": "baseline", "task": "choices", "rows": rows}], Method(resamples=100))
    for row in made:
        assert row["value"] == pytest.approx(scores["choices"][f"{row['metric']},none"])
        share = row["value"]
        assert row["stderr"] == pytest.approx(math.sqrt(share * (1 - share) / 6))


def _rows(values: list[float], subtask: str = "t") -> list[dict[str, Any]]:
    return [
        {"subtask": subtask, "question": at, "filter": "none", "values": {"acc": value}, "asked": f"{at}"}
        for at, value in enumerate(values)
    ]


def test_differences_are_paired_by_question_whatever_their_order() -> None:
    base, steered = [1.0] * 30 + [0.0] * 10, [0.0] * 10 + [1.0] * 20 + [0.0] * 10
    runs = [
        {"arm": "baseline", "task": "t", "rows": _rows(base)},
        {"arm": "worse", "task": "t", "rows": _rows(steered)[::-1]},
        {"arm": "same", "task": "t", "rows": _rows(base)},
    ]
    found = {row["arm"]: row for row in table(runs, Method(resamples=200))}
    assert found["worse"]["difference"] == pytest.approx(-0.25)
    assert found["worse"]["p"] == pytest.approx(2 / 2**10)
    assert found["worse"]["p_holm"] == pytest.approx(4 / 2**10)
    assert found["worse"]["equivalence_p"] > 0.99 > 0.1 > found["same"]["equivalence_p"]
    assert found["worse"]["difference_low"] < -0.25 < found["worse"]["difference_high"] < 0


def test_subtasks_stand_alone_and_together_and_graded_scores_have_no_test() -> None:
    rows = [*_rows([1.0, 0.0, 1.0], "one"), *_rows([0.5, 0.25], "two")]
    found = table([{"arm": "baseline", "task": "group", "rows": rows}], Method(resamples=200))
    values = {row["subtask"]: (row["n"], row["value"]) for row in found}
    assert values == {"": (5, 0.55), "one": (3, pytest.approx(2 / 3)), "two": (2, 0.375)}
    both = [{"arm": arm, "task": "group", "rows": rows} for arm in ("baseline", "other")]
    other = table(both, Method(resamples=200))[-1]
    assert other["difference"] == 0
    assert "p" not in other


def test_arms_that_were_asked_different_questions_are_not_compared() -> None:
    other = [{**row, "asked": "something else"} for row in _rows([1.0, 0.0])]
    runs = [
        {"arm": "baseline", "task": "t", "rows": _rows([1.0, 0.0])},
        {"arm": "x", "task": "t", "rows": other},
    ]
    with pytest.raises(SteerError, match="another question 0"):
        table(runs, Method())


def test_an_unknown_task_and_missing_data_are_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "docs.jsonl").unlink()
    with pytest.raises(SteerError, match=r"task `choices`: its data can't be read"):
        find_tasks({"choices": TaskSettings()}, folder)
    # Those that the harness brings are thousands, and take ten seconds to look through.
    alone = partial(TaskManager, include_defaults=False)
    monkeypatch.setattr(tasks, "TaskManager", lambda include_path, **_: alone(include_path=include_path))
    with pytest.raises(SteerError, match=r"task `nonsense`: is neither in .* nor known"):
        find_tasks({"nonsense": TaskSettings()}, folder)


def test_the_committed_task_is_the_grammar_s(request: pytest.FixtureRequest) -> None:
    path = ROOT / "data" / "tasks" / "restates.jsonl"
    wanted = lines(Grammar.load(ROOT / "data" / "grammar"))
    if request.config.getoption("--fix"):
        path.write_text(wanted)
    assert path.read_text() == wanted


def test_presets_are_laid_under_the_tasks_that_are_given() -> None:
    assert PRESETS["expert-aware"]["mmlu"].fewshot == 5
    own = CapabilitySettings(preset="expert-aware", tasks={"mmlu": TaskSettings(limit=3)})
    assert own.wanted["mmlu"] == TaskSettings(limit=3)
    assert len(own.wanted) == len(PRESETS["expert-aware"]) == 7
