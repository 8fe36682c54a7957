import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steer.artifacts.facts import write_facts
from steer.artifacts.files import write_json, write_jsonl
from steer.artifacts.journal import Journal
from steer.artifacts.routing import read_routing, write_routing
from steer.config import RerouteArm, RerouteSettings, parse_arm
from steer.errors import SteerError
from steer.judges.verdicts import UNSCORED, VERDICTS, Exchange
from steer.models.decoding import generate
from steer.models.interventions import Arm
from steer.models.loading import LoadedModel, load_checkpoint
from steer.selection.candidates import Question
from steer.selection.picks import Pick, bottom, controls_of, detected, random_matched, reroute_arm
from steer.selection.rerouted import rerouted_arm
from steer.selection.rerouting import mean_kl, select
from tests.oracles import forward
from tests.study import Study, make_study, prompts_of
from tests.tiny import EXPERTS, LAYERS
from tests.unit.test_selection_strength import Always, Bytes

Tiny = Callable[[str], LoadedModel]
COUNTED = (*VERDICTS, UNSCORED)
GRID = RerouteSettings(
    activated=(1,), deactivated=(2, 40), prompts=3, max_new_tokens=4, non_response=1.0, kl_threshold=1e6
)


@pytest.fixture
def study(tiny: Tiny, tmp_path: Path) -> Study:
    study = make_study(tmp_path, tiny("olmoe"))
    _write_ranking(study)
    return study


def _write_ranking(study: Study) -> dict[str, Any]:
    differences = np.random.default_rng(0).normal(size=LAYERS * EXPERTS)
    place = np.divmod(np.arange(LAYERS * EXPERTS), EXPERTS)
    columns = {"layer": place[0], "expert": place[1], "risk_difference": differences}
    write_routing(study.path("prompt.csv"), columns)
    return columns


def _select(study: Study, judge: Any, settings: RerouteSettings = GRID) -> tuple[list[dict[str, str]], Any]:
    facts, _, harmful, harmless = study.inputs
    files = (facts, study.path("prompt.csv"), harmful, harmless, study.path("rerouting"))
    select(*files, study.settings, settings, judge)
    with study.path("rerouting.csv").open() as stream:
        return list(csv.DictReader(stream)), json.loads(study.path("rerouting.json").read_text())["choices"]


def test_counts_and_kl_are_those_of_one_prompt_at_a_time(study: Study) -> None:
    rows, _ = _select(study, Bytes())
    # 40 experts are more than the ranking has on a side.
    assert [(r["polarity"], r["activated"], r["deactivated"]) for r in rows] == [
        (polarity, a, d) for polarity in ("suppress", "induce") for a in "01" for d in "02"
    ]
    ranking = _write_ranking(study)
    for row in rows:
        pick = detected(ranking, row["polarity"], int(row["activated"]), int(row["deactivated"]))  # type: ignore[arg-type]
        arm = reroute_arm("r", pick)
        prompts = _asked(row["set"])
        verdicts = []
        for prompt in prompts:
            reply = generate(study.loaded, [study.loaded.encode(prompt.text)], [arm], GRID.max_new_tokens)[0]
            verdicts.append(Bytes().verdict(Exchange(prompt.text, reply.text)))
        assert {name: int(row[name]) for name in COUNTED} == {name: verdicts.count(name) for name in COUNTED}
        # Each polarity is to leave alone what the other is for.
        left_alone = _asked({"suppress": "harmless", "induce": "harmful"}[row["polarity"]])
        assert float(row["kl"]) == pytest.approx(_kl(study, arm, left_alone), rel=1e-4, abs=1e-6)
    assert len({row["kl"] for row in rows}) > 4


def test_both_polarities_leave_a_control_alone(study: Study) -> None:
    facts, _, harmful, harmless = study.inputs
    kept = study.path("kept.jsonl")
    rows = [prompt for prompt in prompts_of("harmless", 12) if prompt.split == "val"]
    left_alone = [
        replace(prompt, id=f"k{number}", text="ab" * (number + 2)) for number, prompt in enumerate(rows)
    ]
    write_jsonl(kept, [prompt.__dict__ for prompt in left_alone])
    files = (facts, study.path("prompt.csv"), harmful, harmless, study.path("rerouting"))
    select(*files, study.settings, GRID, Bytes(), kept)
    ranking = _write_ranking(study)
    with study.path("rerouting.csv").open() as stream:
        for row in csv.DictReader(stream):
            pick = detected(ranking, row["polarity"], int(row["activated"]), int(row["deactivated"]))  # type: ignore[arg-type]
            expected = _kl(study, reroute_arm("r", pick), left_alone[: GRID.prompts])
            assert float(row["kl"]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def _kl(study: Study, arm: Arm, prompts: list[Any]) -> float:
    """Mean KL of the first reply token, a prompt at a time."""
    divergences = []
    for prompt in prompts:
        ids = study.loaded.encode(prompt.text)
        plain, steered = (
            generate(study.loaded, [ids], [one], 1)[0].first_token_logits for one in (Arm(""), arm)
        )
        divergences.append(forward.kl(plain, steered))
    return float(np.mean(divergences))


def _asked(label: str) -> list[Any]:
    rows = [prompt for prompt in prompts_of(label, 12) if prompt.split == "val"]  # type: ignore[arg-type]
    return sorted(rows, key=lambda prompt: prompt.id)[: GRID.prompts]


def test_no_experts_are_never_chosen_and_fewer_win_a_tie(study: Study) -> None:
    rows, choices = _select(study, Always("refusal"))
    assert [row["status"] for row in rows if row["activated"] == row["deactivated"] == "0"] == [
        "unsteered"
    ] * 2
    for polarity, choice in choices.items():
        assert (choice["activated"], choice["deactivated"]) == (1, 0)
        chosen = [row for row in rows if row["status"] == "chosen" and row["polarity"] == polarity]
        assert [row["activate"] for row in chosen] == ["{}:{}".format(*choice["activate"][0])]
    assert choices["induce"]["why"].startswith("3 of 3 refusal on val")
    assert choices["suppress"]["why"].startswith("0 of 3 full_response on val")


@pytest.mark.parametrize(
    ("judge", "changes", "status"),
    [
        (Always("non_response"), {"non_response": 0.1}, "incoherent"),
        (Always("refusal"), {"kl_threshold": 1e-9}, "KL above threshold"),
    ],
)
def test_where_nothing_is_coherent_the_nearest_is_chosen_and_the_record_says_so(
    study: Study, judge: Any, changes: dict[str, float], status: str
) -> None:
    rows, choices = _select(study, judge, GRID.model_copy(update=changes))
    assert {row["status"] for row in rows} == {"unsteered", status}
    for choice in choices.values():
        assert choice["activated"] + choice["deactivated"] > 0
        assert choice["why"].startswith(f"{status}, as all are, ")


def test_finished_trials_are_kept_and_give_the_same_bytes(study: Study) -> None:
    judge = Bytes()
    _select(study, judge)
    first, asked = study.path("rerouting.csv").read_bytes(), len(judge.asked)
    _select(study, judge)
    assert len(judge.asked) == asked
    assert study.path("rerouting.csv").read_bytes() == first
    _select(study.on("auto"), judge)
    assert len(judge.asked) == 2 * asked


def test_trials_of_settings_that_are_gone_do_not_pile_up(study: Study) -> None:
    for limit in (1, 2, 3):
        rows, _ = _select(study, Bytes(), GRID.model_copy(update={"max_new_tokens": limit}))
    with Journal(study.path(".rerouting.journal.jsonl")) as journal:
        assert len(journal) == len(rows)


def test_logits_that_outgrow_their_type_are_an_error_that_names_arm_and_prompt(study: Study) -> None:
    loaded = load_checkpoint(Path(study.loaded.name))
    weight = loaded.model.get_output_embeddings().weight
    with torch.no_grad():
        weight.mul_(3e38 / weight.abs().max())
    asked = [Question("q1", "ab", loaded.encode("ab"))]
    with pytest.raises(SteerError, match=r"arm `away`, prompt `q1`: gives logits that are infinite.*float32"):
        mean_kl(loaded, reroute_arm("away", Pick((), ((1, 2),))), asked, 4)


def test_a_dense_model_can_not_be_rerouted(tiny: Tiny, tmp_path: Path) -> None:
    study = make_study(tmp_path, tiny("llama"))
    write_facts(study.path("model.json"), replace(study.facts, moe_layers=()), {})
    _write_ranking(study)
    with pytest.raises(SteerError, match="without MoE layers"):
        _select(study, Bytes())


def _choice(folder: Path, ranking: dict[str, Any]) -> Path:
    selection = folder / "selection"
    choices = {"suppress": {"activated": 1, "deactivated": 2}, "induce": {"activated": 0, "deactivated": 0}}
    write_json(selection / "rerouting.json", {"ranking": "prompt", "choices": choices})
    write_routing(folder / "routing" / "prompt.csv", ranking)
    return selection


def test_arms_take_the_chosen_or_given_number_of_experts_and_controls_as_many(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    place = np.divmod(np.arange(32), 8)
    rates = {f"rate_{side}": rng.random(32) for side in (1, 2)}
    differences = rates["rate_1"] - rates["rate_2"]
    ranking = {"layer": place[0], "expert": place[1], **rates, "risk_difference": differences}
    selection = _choice(tmp_path, ranking)
    stored = read_routing(tmp_path / "routing" / "prompt.csv")

    def made(**settings: Any) -> Arm:
        return rerouted_arm("r", RerouteArm(operation="reroute", **settings), selection)

    pick = detected(stored, "suppress", 1, 2)
    assert made() == reroute_arm("r", pick)
    assert made(experts="bottom") == reroute_arm("r", bottom(stored, pick))
    assert made(experts="random", seed=4) == reroute_arm(
        "r", controls_of(random_matched(stored, pick, 1, 4), 1)
    )
    assert made(polarity="induce", activated=3) == reroute_arm("r", detected(stored, "induce", 3, 0))
    named = Pick(((2, 1),), ((1, 3), (2, 5)))
    assert made(activate=named.activate, deactivate=named.deactivate) == reroute_arm("r", named)
    with pytest.raises(SteerError, match="arm `r`: acts on no experts"):
        made(polarity="induce")

    other = {**ranking, "risk_difference": -differences[::-1]}
    write_routing(tmp_path / "routing" / "other.csv", other)
    theirs = read_routing(tmp_path / "routing" / "other.csv")
    pick = detected(theirs, "induce", 2, 1)
    own = {"polarity": "induce", "ranking": "other", "activated": 2, "deactivated": 1}
    assert made(**own) == reroute_arm("r", pick) != made(**{**own, "ranking": "prompt"})
    assert made(**own, experts="bottom") == reroute_arm("r", bottom(theirs, pick))
    with pytest.raises(SteerError, match="acts on no experts"):
        # What was chosen was chosen for another ranking.
        made(ranking="other")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operation": "add", "activated": 2}, "activated\n  Extra inputs are not permitted"),
        ({"operation": "add", "experts": "random"}, "experts\n  Extra inputs are not permitted"),
        ({"operation": "reroute", "layer": 2}, "layer\n  Extra inputs are not permitted"),
        ({"operation": "reroute", "like": "add"}, "like\n  Extra inputs are not permitted"),
        (
            {"operation": "reroute", "activate": [[1, 2]], "activated": 2},
            "leave out what counts or picks them",
        ),
        (
            {"operation": "reroute", "activate": [[1, 2]], "ranking": "prompt"},
            "leave out what counts or picks them",
        ),
    ],
)
def test_settings_that_do_not_go_with_rerouting_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_arm(settings)
