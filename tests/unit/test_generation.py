import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from steer import generation
from steer.artifacts.arms import write_arm
from steer.artifacts.files import read_jsonl
from steer.errors import SteerError
from steer.generation import generate_replies
from steer.models.interventions import Arm, Operation
from steer.models.loading import LoadedModel
from tests.oracles import forward
from tests.study import Study, make_study, prompts_of

Tiny = Callable[[str], LoadedModel]
LIMIT = 6
PROMPTS = prompts_of("harmful", 15)
TESTED = sorted((prompt for prompt in PROMPTS if prompt.split == "test"), key=lambda prompt: prompt.id)


def _arms(study: Study) -> dict[str, Arm]:
    vector = study.directions.direction[2, -1]
    basis = (study.directions.direction[1, -2] / study.directions.direction[1, -2].norm())[None]
    pair = torch.stack([study.directions.direction[3, -1], study.directions.harmless_mean[3, -1]])
    return {
        "baseline": Arm("baseline"),
        "add": Arm("add", (Operation("add", "v", 2, 0.8),), {"v": vector}),
        "prompt": Arm("prompt", (Operation("add", "v", 1, -1.5, "prompt"),), {"v": vector}),
        "later": Arm("later", (Operation("affine", "p", 3, 0.5, "generated"),), {"p": pair}),
        "ablate": Arm("ablate", (Operation("ablate", "b"),), {"b": basis}),
        "zero": Arm("zero", (Operation("add", "v", 2, 0.0),), {"v": vector}),
    }


@pytest.fixture
def study(tiny: Tiny, tmp_path: Path) -> Study:
    return _study(tmp_path, tiny("olmoe"))


def _study(folder: Path, loaded: LoadedModel, **settings: Any) -> Study:
    study = make_study(folder, loaded, **{"batch_size": 2, **settings})
    study.write_prompts("harmful", PROMPTS)
    for arm in _arms(study).values():
        write_arm(study.path(f"{arm.name}.safetensors"), arm, model="m1", provenance={})
    return study


def _generate(
    study: Study, *arms: str, limit: int = LIMIT
) -> tuple[int, dict[tuple[str, str], dict[str, Any]]]:
    """How many replies were made now, and all rows by arm and prompt."""
    names = arms or tuple(_arms(study))
    paths = [study.path(f"{name}.safetensors") for name in names]
    facts, prompts, out = study.path("model.json"), study.path("harmful.jsonl"), study.path("out.jsonl")
    made = generate_replies(facts, prompts, paths, out, study.settings, limit)
    rows = read_jsonl(out)
    # Arms in the order given, prompts by id: that of the work does not show.
    assert [(row["arm"], row["prompt_id"]) for row in rows] == [
        (name, prompt.id) for name in names for prompt in TESTED
    ]
    return made, {(row["arm"], row["prompt_id"]): row for row in rows}


@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe_mixed"])
def test_replies_are_those_of_one_prompt_at_a_time_steered_by_hand(
    tiny: Tiny, tmp_path: Path, family: str
) -> None:
    study = _study(tmp_path, tiny(family))
    made, rows = _generate(study)
    arms = _arms(study)
    assert made == len(rows) == len(arms) * len(TESTED)
    for (name, prompt_id), row in rows.items():
        [text] = [prompt.text for prompt in TESTED if prompt.id == prompt_id]
        ids = study.loaded.encode(text)
        reply = forward.greedy(study.loaded, ids, arms[name], LIMIT)
        assert row["text"] == study.loaded.tokenizer.decode(reply, skip_special_tokens=True)
        assert row["n_tokens"] == len(reply)
        assert row["finish"] == ("stop" if reply[-1] == study.loaded.tokenizer.eos_token_id else "length")
        logits = [forward.logits(study.loaded, ids, arm) for arm in (Arm(""), arms[name])]
        score = forward.refusal_score(logits[1], study.facts.refusal_token_ids)
        assert row["first_token_refusal_score"] == pytest.approx(score, rel=1e-4, abs=1e-5)
        assert row["first_token_kl"] == pytest.approx(forward.kl(*logits), rel=1e-4, abs=1e-6)
    texts = {name: [rows[name, prompt.id]["text"] for prompt in TESTED] for name in arms}
    assert texts["zero"] == texts["baseline"]
    assert all(texts[name] != texts["baseline"] for name in arms if name not in ("zero", "baseline"))


def test_an_unsteered_reply_has_no_effect_at_all(study: Study) -> None:
    _, rows = _generate(study)
    for prompt in TESTED:
        assert rows["baseline", prompt.id]["first_token_kl"] == 0
        assert rows["baseline", prompt.id]["fired"] == {
            "tokens": 0,
            "sites": 0,
            "relative_norm": 0.0,
            "leaked": 0,
            "blocked": 0,
            "dropped": 0,
        }
        assert rows["zero", prompt.id]["first_token_kl"] < 1e-9
        assert rows["later", prompt.id]["first_token_kl"] < 1e-9
    assert set(rows["add", TESTED[0].id]) == {
        *("arm", "prompt_id", "text", "reasoning", "n_tokens", "finish"),
        *("first_token_refusal_score", "first_token_kl", "fired"),
    }


def test_experts_that_are_chosen_although_avoided_are_counted_and_warned_of(
    study: Study, caplog: pytest.LogCaptureFixture
) -> None:
    avoided = {"layer": 1, "deactivate": (0, 1, 2, 3)}
    weak = Operation("bias_router", coefficient=1e-3, **avoided)  # type: ignore[arg-type]
    for arm in (Arm("weak", (weak,)), Arm("strong", (replace(weak, operation="reroute", coefficient=1.0),))):
        write_arm(study.path(f"{arm.name}.safetensors"), arm, model="m1", provenance={})
    with caplog.at_level(logging.WARNING):
        _, rows = _generate(study, "weak", "strong")
    leaked = {
        name: sum(rows[name, prompt.id]["fired"]["leaked"] for prompt in TESTED)
        for name in ("weak", "strong")
    }
    assert leaked["weak"] > 0 == leaked["strong"]
    said = [record.message for record in caplog.records if "it avoids" in record.message]
    assert said == [f"arm `weak`: experts that it avoids were chosen {leaked['weak']} times"]


def test_fired_counts_the_tokens_of_the_arms_scope(study: Study) -> None:
    _, rows = _generate(study)
    for prompt in TESTED:
        length = len(study.loaded.encode(prompt.text))
        fed = {name: rows[name, prompt.id]["n_tokens"] - 1 for name in _arms(study)}
        fired = {name: rows[name, prompt.id]["fired"]["tokens"] for name in _arms(study)}
        assert fired["add"] == length + fed["add"]
        assert fired["ablate"] == length + fed["ablate"]
        assert (fired["prompt"], fired["later"]) == (length, fed["later"])


def test_a_new_arm_costs_its_own_rows_only(study: Study) -> None:
    made, rows = _generate(study, "baseline", "add")
    assert made == 2 * len(TESTED)
    made, extended = _generate(study, "baseline", "ablate", "add")
    assert made == len(TESTED)
    assert {key: row for key, row in extended.items() if key[0] != "ablate"} == rows
    made, fewer = _generate(study, "add", "ablate")
    assert made == 0
    assert fewer == {key: row for key, row in extended.items() if key[0] != "baseline"}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [("nothing", 0), ("dose", 5), ("prompt", 4), ("limit", 10), ("batch", 10), ("device", 10)],
)
def test_what_decides_a_row_makes_it_anew_and_nothing_else_does(
    study: Study, changed: str, expected: int
) -> None:
    _generate(study, "baseline", "add")
    before = study.path("out.jsonl").read_bytes()
    limit = LIMIT
    if changed == "dose":
        arm = replace(_arms(study)["add"], operations=(Operation("add", "v", 2, 0.9),))
        write_arm(study.path("add.safetensors"), arm, model="m1", provenance={})
    elif changed == "prompt":
        last = TESTED[-1]
        study.write_prompts(
            "harmful", [replace(last, text=last.text[:-1] + "!") if one is last else one for one in PROMPTS]
        )
    elif changed == "limit":
        limit = LIMIT + 1
    elif changed == "batch":
        study = replace(study, settings=study.settings.model_copy(update={"batch_size": 3}))
    elif changed == "device":
        study = study.on("auto")
    made, _ = _generate(study, "baseline", "add", limit=limit)
    # Five prompts in batches of two, two and one: a prompt takes its batch mates along, under both arms.
    assert len(TESTED) == 5
    assert made == expected
    # Here both devices are the CPU.
    assert (study.path("out.jsonl").read_bytes() == before) == (changed in ("nothing", "device"))


def test_a_stopped_run_goes_on_after_its_finished_batches_with_the_same_bytes(
    study: Study, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _study(tmp_path / "whole", tiny("olmoe"))
    _generate(whole, "baseline", "add")
    answer, batches = generation.generate, []

    def stop_at_the_fourth(*given: Any, **options: Any) -> Any:
        if len(batches) == 3:
            raise KeyboardInterrupt
        batches.append(given)
        return answer(*given, **options)

    monkeypatch.setattr(generation, "generate", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        _generate(study, "baseline", "add")
    assert not study.path("out.jsonl").exists()
    monkeypatch.undo()
    made, _ = _generate(study, "baseline", "add")
    assert made == 5
    for name in ("out.jsonl", "out.meta.json"):
        assert study.path(name).read_bytes() == whole.path(name).read_bytes()


def test_the_record_names_what_the_replies_come_from(study: Study) -> None:
    _generate(study, "baseline", "add")
    first = json.loads(study.path("out.meta.json").read_text())
    assert first["stage"] == "steer.generation"
    assert set(first["inputs"]) == {"model", "prompts", "arms"}
    assert set(first["inputs"]["arms"]) == {"baseline", "add"}
    study.write_prompts("harmful", PROMPTS[:-1])
    facts, out = study.path("model.json"), study.path("other.jsonl")
    arms = [study.path("baseline.safetensors")]
    generate_replies(facts, study.path("harmful.jsonl"), arms, out, study.settings, LIMIT)
    second: Mapping[str, Any] = json.loads(study.path("other.meta.json").read_text())
    assert second["inputs"]["prompts"] != first["inputs"]["prompts"]


def test_an_arm_that_touches_no_token_is_an_error(study: Study) -> None:
    with pytest.raises(SteerError, match="arm `later`: touched no token of any reply"):
        _generate(study, "baseline", "later", limit=1)
    assert not study.path("out.jsonl").exists()


def test_an_edit_that_makes_numbers_overflow_is_an_error(study: Study) -> None:
    vector = study.directions.direction[2, -1]
    arm = Arm("huge", (Operation("add", "v", 2, 1e38),), {"v": 10 * vector / vector.norm()})
    write_arm(study.path("huge.safetensors"), arm, model="m1", provenance={})
    message = r"arm `huge`, prompt `harmf\d+`: gives logits .* in float32\n.*`dtype: bfloat16`.*coefficient"
    with pytest.raises(SteerError, match=message):
        _generate(study, "huge")
    assert not study.path("out.jsonl").exists()


def test_what_can_not_be_answered_is_named_before_any_reply_is_made(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "generate", lambda *_given: pytest.fail("a reply is made"))
    longest = max(len(study.loaded.encode(prompt.text)) for prompt in TESTED)
    short = replace(study, settings=study.settings.model_copy(update={"max_prompt_tokens": longest - 1}))
    with pytest.raises(SteerError, match=rf"prompt `harmf\d+`: has {longest} tokens, more than"):
        _generate(short)
    write_arm(study.path("add.safetensors"), _arms(study)["add"], model="m2", provenance={})
    with pytest.raises(SteerError, match=r"add\.safetensors: is of another model"):
        _generate(study)
    study.write_prompts("harmful", prompts_of("harmful", 6, ("train", "val")))
    with pytest.raises(SteerError, match="has no `test` prompts"):
        _generate(study, "baseline")
    assert not study.path("out.jsonl").exists()
