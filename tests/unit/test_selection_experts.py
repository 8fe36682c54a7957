import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from steer.artifacts.arms import read_arm
from steer.artifacts.files import write_json
from steer.artifacts.tensors import write_tensors
from steer.config import ExpertSelectionSettings, parse_arm
from steer.errors import SteerError
from steer.judges.verdicts import Judge
from steer.models.checks import check_arm
from steer.models.interventions import Arm
from steer.models.loading import LoadedModel
from steer.models.scoring import refusal_score
from steer.models.steering import steer
from steer.selection import experts
from steer.selection.arms import write_arms
from steer.selection.experts import select
from steer.selection.experts_exact import exact_scores
from steer.selection.experts_table import kept
from tests.study import POSITIONS, Study, make_study, prompts_of
from tests.tiny import EXPERTS, HIDDEN
from tests.unit.test_selection_matching import check_recorded
from tests.unit.test_selection_strength import Bytes

GRID = ExpertSelectionSettings(
    estimated=4,
    spread=3,
    coefficients=(0.5, 2.0),
    kl_threshold=1e6,
    share=0,
    judged=5,
    prompts=3,
    max_new_tokens=4,
    scopes=("all",),
    refinements=0,
)
ARMS: dict[str, dict[str, Any]] = {
    "baseline": {"operation": "none"},
    "one": {"operation": "expert_add", "weighting": "full"},
    "one_induce": {"operation": "expert_add", "polarity": "induce", "estimator": "routed"},
    "all": {"operation": "experts_add"},
    "random": {"operation": "expert_add", "weighting": "full", "direction": "random", "like": "one"},
    "matched": {
        "operation": "expert_add",
        "weighting": "full",
        "experts": "matched",
        "like": "one",
        "seed": 3,
    },
    "bottom": {"operation": "expert_add", "weighting": "full", "experts": "bottom", "like": "one"},
    "given": {
        "operation": "expert_add",
        "experts": [[3, 1], [1, 3], [1, 0]],
        "position": -2,
        "coefficient": 3,
    },
    "removed": {"operation": "expert_ablate", "like": "one"},
    "scaled": {"operation": "scale_experts", "experts": [[1, 3]], "factor": 2.5},
    "masked": {"operation": "mask_experts", "like": "one"},
    "rerouted": {"operation": "reroute", "deactivate": [[1, 3]], "activate": [[3, 5]]},
}
Tiny = Callable[[str], LoadedModel]
Rows = list[dict[str, str]]


def _write_directions(study: Study) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    shape = (len(study.facts.moe_layers), EXPERTS, POSITIONS, HIDDEN)
    tensors = {f"{kind}.direction": torch.randn(shape, generator=generator) for kind in ("forced", "routed")}
    # As where the router never chose the expert for one of the classes.
    tensors["routed.direction"][0, 2] = 0
    tensors["routed.count"] = torch.randint(0, 9, (2, *shape[:3]), generator=generator, dtype=torch.int32)
    write_tensors(study.path("experts.safetensors"), tensors, model=study.facts.digest, provenance={})
    return tensors


@pytest.fixture(params=["olmoe", "qwen3_moe_mixed"])
def study(request: pytest.FixtureRequest, tiny: Tiny, tmp_path: Path) -> Study:
    study = make_study(tmp_path, tiny(request.param))
    _write_directions(study)
    return study


def _arms(values: Mapping[str, Mapping[str, Any]] = ARMS) -> dict[str, Any]:
    return {name: parse_arm(one) for name, one in values.items()}


def _select(
    study: Study,
    judge: Judge,
    grid: ExpertSelectionSettings = GRID,
    arms: Mapping[str, Mapping[str, Any]] = ARMS,
) -> tuple[Rows, dict[str, Any]]:
    facts, _, harmful, harmless = study.inputs
    out = study.path("experts")
    path = study.path("experts.safetensors")
    select(facts, path, harmful, harmless, out, study.settings, grid, _arms(arms), judge, POSITIONS)
    with out.with_suffix(".csv").open() as stream:
        return list(csv.DictReader(stream)), json.loads(out.with_suffix(".json").read_text())["choices"]


def test_every_candidate_stands_in_the_table_with_the_stage_that_it_came_to(study: Study) -> None:
    rows, choices = _select(study, Bytes())
    assert choices.keys() == {"one", "one_induce", "all"}
    layers = len(study.facts.moe_layers)
    places = {"one": layers * EXPERTS, "one_induce": layers * EXPERTS - 1, "all": layers}
    for name, count in places.items():
        mine = [row for row in rows if row["arm"] == name]
        ranks = {int(row["estimate_rank"]) for row in mine}
        assert ranks == set(range(1, count * POSITIONS + 1))
        scored = [row for row in mine if row["stage"] != "estimated"]
        reached = {int(row["estimate_rank"]) for row in scored}
        assert len(scored) == len(reached) * len(GRID.coefficients)
        assert {1, 2, 3, 4, count * POSITIONS} <= reached
        assert len(reached) == min(7, count * POSITIONS)
        assert sum(row["stage"] == "judged" for row in mine) == GRID.judged
        signs = {float(row["coefficient"]) > 0 for row in scored}
        assert signs == {name == "one_induce"}
        ordered = [float(row["estimate"]) for row in sorted(mine, key=lambda row: int(row["estimate_rank"]))]
        assert sorted(ordered, reverse=name == "one_induce") == ordered


def test_the_most_wanted_verdict_wins(study: Study) -> None:
    rows, choices = _select(study, Bytes())
    for name, choice in choices.items():
        mine = [row for row in rows if row["arm"] == name and row["refusal_score"]]
        wanted = "refusal" if name == "one_induce" else "full_response"
        [chosen] = [row for row in mine if row["chosen"] == "True"]
        judged = [row for row in mine if row["stage"] == "judged"]
        assert chosen in judged
        assert int(chosen[wanted]) == max(int(row[wanted]) for row in judged)
        assert (choice["coefficient"], choice["scope"]) == (abs(float(chosen["coefficient"])), "all")
        assert (choice["layer"], choice["position"]) == (int(chosen["layer"]), int(chosen["position"]))
        assert choice["experts"] == ([[choice["layer"], int(chosen["expert"])]] if chosen["expert"] else [])
        assert len(choice["rank_correlation"]) == len(GRID.coefficients)


def _scored(rank: int, scores: Mapping[float, float], kl: float = 0.0) -> list[dict[str, Any]]:
    fixed = {"estimate_rank": rank, "polarity": "suppress", "direction_norm": 1.0, "kl": kl}
    return [{**fixed, "coefficient": -size, "refusal_score": score} for size, score in scores.items()]


def test_judged_are_the_doses_about_the_one_that_turns_the_first_token_place_by_place() -> None:
    late = _scored(1, {1: 5.0, 2: 4.0, 4: 2.0, 8: -0.5, 16: -9.0})
    early = _scored(2, {1: 3.0, 2: -1.0, 4: -6.0, 8: -12.0, 16: -20.0})
    never = _scored(3, {1: 3.0, 2: 1.0, 4: 0.5, 8: 2.0})
    harmful = _scored(4, {1: -9.0}, kl=5.0)
    grid = GRID.model_copy(update={"judged": 11, "kl_threshold": 1.0})
    found = kept([*late, *early, *never, *harmful], grid)
    order = [(row["estimate_rank"], abs(row["coefficient"])) for row in found]
    assert order[:3] == [(2, 2), (2, 1), (2, 4)]
    assert order[3:9] == [(1, 8), (1, 4), (1, 16), (3, 4), (3, 2), (3, 8)]
    assert order[9:] == [(2, 8), (2, 16)]
    signs = [{**row, "polarity": "induce", "refusal_score": -row["refusal_score"]} for row in [*late, *early]]
    assert [row["estimate_rank"] for row in kept(signs, grid)[:4]] == [2, 2, 2, 1]


def test_the_best_place_is_judged_in_other_scopes_and_at_finer_doses(study: Study) -> None:
    grid = GRID.model_copy(update={"scopes": ("prompt", "all"), "refinements": 2, "judged": 3})
    judge = Bytes()
    rows, choices = _select(study, judge, grid)
    arms = _written(study)
    for name, choice in choices.items():
        mine = [row for row in rows if row["arm"] == name and row["n"]]
        assert {row["scope"] for row in mine} == {"prompt", "all"}
        assert {op.scope for op in arms[name].operations} == {choice["scope"]}
        asked = [(row["estimate_rank"], row["coefficient"], row["scope"]) for row in mine]
        assert len({*asked}) == len(asked)
        [chosen] = [row for row in mine if row["chosen"] == "True"]
        place = [row for row in mine if row["estimate_rank"] == chosen["estimate_rank"]]
        doses = {abs(float(row["coefficient"])) for row in place if row["scope"] == chosen["scope"]}
        assert {*grid.coefficients} <= doses
        assert all(row["refusal_score"] for row in mine)
        # Halfway in ratio between 0.5 and 2.
        assert any(abs(float(row["coefficient"])) == pytest.approx(1.0) for row in mine)
    assert len(judge.asked) == sum(bool(row["n"]) for row in rows) * grid.prompts


def test_scores_are_those_of_the_arm_that_is_written(study: Study) -> None:
    rows, choices = _select(study, Bytes())
    arms = _written(study)
    ids = [study.loaded.encode(prompt.text) for prompt in _val("harmful")]
    for name in ("one", "all"):
        [chosen] = [row for row in rows if row["arm"] == name and row["chosen"] == "True"]
        scores = []
        for tokens in ids:
            batch = study.loaded.batch([tokens])
            with steer(study.loaded, [arms[name]], batch.attention_mask):
                logits = study.loaded.next_token_logits(batch)
            scores.append(float(refusal_score(logits, study.facts.refusal_token_ids)))
        assert float(chosen["refusal_score"]) == pytest.approx(sum(scores) / len(scores), rel=1e-4, abs=1e-4)
    assert choices["one"]["baseline_refusal_score"] != 0


def _val(label: Any) -> list[Any]:
    found = [prompt for prompt in prompts_of(label, 12) if prompt.split == "val"]
    return sorted(found, key=lambda prompt: prompt.id)[: GRID.prompts]


def _written(study: Study, arms: Mapping[str, Mapping[str, Any]] = ARMS) -> dict[str, Arm]:
    write_json(study.path("strength.json"), {"choices": {}})
    facts, directions, _, _ = study.inputs
    out, experts = study.path("arms"), study.path("experts.safetensors")
    write_arms(facts, directions, study.folder, out, _arms(arms), POSITIONS, experts)
    return {name: read_arm(out / f"{name}.safetensors", model=study.facts.digest) for name in arms}


def test_arms_act_on_the_chosen_experts_the_given_ones_or_controls_for_them(study: Study) -> None:
    _, choices = _select(study, Bytes())
    arms, tensors = _written(study), _write_directions(study)
    for arm in arms.values():
        check_arm(study.loaded, arm)
    [(layer, expert)] = choices["one"]["experts"]
    row = study.facts.moe_layers.index(layer)
    position, c = choices["one"]["position"], choices["one"]["coefficient"]
    [one], [random] = arms["one"].operations, arms["random"].operations
    assert (one.layer, one.experts, one.coefficient, one.weighting) == (layer, (expert,), -c, "full")
    assert torch.equal(arms["one"].tensors[one.tensor], tensors["forced.direction"][row, [expert], position])
    assert (random.layer, random.experts, random.coefficient) == (layer, (expert,), -c)
    found, drawn = arms["one"].tensors[one.tensor], arms["random"].tensors[random.tensor]
    assert float(drawn.norm()) == pytest.approx(float(found.norm()), rel=1e-5)
    assert abs(float(torch.cosine_similarity(drawn[0], found[0], dim=0))) < 0.7
    for name in ("matched", "bottom"):
        [control] = arms[name].operations
        assert (control.layer, control.coefficient) == (layer, -c)
        assert control.experts != (expert,)
        own = tensors["forced.direction"][row, list(control.experts), position]
        assert torch.equal(arms[name].tensors[control.tensor], own)
    assert [list(pair) for pair in zip([layer], arms["bottom"].operations[0].experts, strict=True)] == [
        *choices["one"]["bottom"]
    ]
    check_recorded(study.path("arms"), ["matched"])
    [induced] = arms["one_induce"].operations
    assert induced.coefficient == choices["one_induce"]["coefficient"]
    [everyone] = arms["all"].operations
    assert (everyone.experts, arms["all"].tensors[everyone.tensor].shape) == ((), (EXPERTS, HIDDEN))


def test_arms_act_on_the_given_experts_and_remove_scale_mask_and_reroute_them(study: Study) -> None:
    _, choices = _select(study, Bytes())
    arms = _written(study)
    [(layer, expert)] = choices["one"]["experts"]
    given = [(o.layer, o.experts, o.coefficient) for o in arms["given"].operations]
    assert given == [(1, (3, 0), -3.0), (3, (1,), -3.0)]
    removed = arms["removed"].operations[0]
    assert (removed.operation, removed.experts) == ("expert_ablate", (expert,))
    assert float(arms["removed"].tensors[removed.tensor].norm()) == pytest.approx(1)
    [scaled], [masked] = arms["scaled"].operations, arms["masked"].operations
    assert (scaled.layer, scaled.experts, scaled.coefficient) == (1, (3,), 2.5)
    assert (masked.layer, masked.experts) == (layer, (expert,))
    assert [(o.layer, o.activate, o.deactivate) for o in arms["rerouted"].operations] == [
        (1, (), (3,)),
        (3, (5,), ()),
    ]


def test_a_rerun_asks_no_judge_and_gives_the_same_bytes(study: Study) -> None:
    first, again = Bytes(), Bytes()
    rows, _ = _select(study, first)
    content = [study.path(name).read_bytes() for name in ("experts.csv", "experts.json")]
    _select(study, again)
    assert [study.path(name).read_bytes() for name in ("experts.csv", "experts.json")] == content
    answered = [row for row in rows if row["stage"] in ("judged", "dose")]
    assert len(answered) >= 3 * GRID.judged
    assert len(first.asked) == len(answered) * GRID.prompts
    assert again.asked == []
    _select(study.on("auto"), again)
    assert len(again.asked) == len(first.asked)


def test_every_dose_of_the_chosen_place_is_judged_and_no_other_candidate(study: Study) -> None:
    rows, choices = _select(study, Bytes())
    for name in choices:
        mine = [row for row in rows if row["arm"] == name and row["stage"] != "estimated"]
        [chosen] = [row for row in mine if row["chosen"] == "True"]
        place = [row for row in mine if row["estimate_rank"] == chosen["estimate_rank"]]
        assert {abs(float(row["coefficient"])) for row in place} == {*GRID.coefficients}
        assert all(int(row["n"]) == GRID.prompts for row in place)
        assert {row["estimate_rank"] for row in mine if row["stage"] == "dose"} <= {chosen["estimate_rank"]}
        assert all(row["n"] == "" for row in mine if row["stage"] == "scored")


def test_where_every_kl_is_too_large_the_smallest_are_judged(study: Study) -> None:
    rows, _ = _select(study, Bytes(), GRID.model_copy(update={"kl_threshold": 1e-12}))
    for name in ("one", "all"):
        scored = [row for row in rows if row["arm"] == name and row["kl"]]
        least = sorted(scored, key=lambda row: float(row["kl"]))[: GRID.judged]
        assert {row["stage"] for row in least} == {"judged"}


def test_finer_doses_beyond_the_kl_threshold_are_not_judged(study: Study) -> None:
    wide = GRID.model_copy(update={"refinements": 2, "judged": 1})
    rows, _ = _select(study, Bytes(), wide)
    largest = max(float(row["kl"]) for row in rows if row["stage"] == "judged")
    rows, _ = _select(study, Bytes(), wide.model_copy(update={"kl_threshold": largest / 2}))
    chosen = [row for row in rows if row["stage"] == "judged"]
    assert chosen
    assert all(float(row["kl"]) <= largest / 2 for row in chosen)


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"operation": "expert_add", "experts": [[1, 99]]}, "expert 99 of layer 1: does not exist"),
        ({"operation": "expert_add", "experts": [[77, 0]]}, "layer 77: has no experts"),
        (
            {"operation": "expert_add", "experts": [[1, 0]], "position": -9},
            "position -9: no expert direction",
        ),
        ({"operation": "mask_experts", "experts": [[1, 99]]}, "expert 99 of layer 1: does not exist"),
    ],
)
def test_what_does_not_exist_is_named(study: Study, arm: dict[str, Any], message: str) -> None:
    with pytest.raises(SteerError, match=message):
        _written(study, {"baseline": {"operation": "none"}, "wrong": arm})


def test_an_arm_on_experts_of_a_dense_model_is_an_error(tiny: Tiny, tmp_path: Path) -> None:
    study = make_study(tmp_path, tiny("llama"))
    arms = {"baseline": ARMS["baseline"], "scaled": ARMS["scaled"]}
    with pytest.raises(SteerError, match=r"arm `scaled`: acts on experts, and .* is dense"):
        _written(study, arms)


def test_where_no_expert_has_a_direction_the_estimator_is_named(study: Study) -> None:
    tensors = _write_directions(study)
    tensors["routed.direction"].zero_()
    write_tensors(study.path("experts.safetensors"), tensors, model=study.facts.digest, provenance={})
    routed = {"routed": {"operation": "expert_add", "estimator": "routed"}}
    with pytest.raises(SteerError, match=r"arm `routed`: no expert has a direction .* `routed`"):
        _select(study, Bytes(), arms=routed)


def test_where_there_is_nothing_to_score_no_pass_runs(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[int] = []

    def counted(loaded: Any, questions: Any, candidates: Any, *rest: Any) -> Any:
        scored.append(len(candidates))
        return exact_scores(loaded, questions, candidates, *rest)

    monkeypatch.setattr(experts, "exact_scores", counted)
    # Of the doses beside the best one none was judged: there are no finer ones yet.
    _select(study, Bytes(), GRID.model_copy(update={"refinements": 1, "judged": 1}))
    assert scored
    assert min(scored) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operation": "expert_add", "experts": "matched"}, "name the arm that it is `like`"),
        ({"operation": "expert_add", "layer": 1}, "name `experts` as"),
        ({"operation": "experts_add", "experts": [[1, 1]]}, "name a `layer`"),
        ({"operation": "expert_ablate"}, "needs `experts`, or an arm"),
        ({"operation": "expert_ablate", "experts": [[1, 1]], "polarity": "induce"}, "can only suppress"),
        ({"operation": "mask_experts"}, "needs `experts`, or an arm"),
        ({"operation": "mask_experts", "experts": [[1, 1]], "factor": 2}, "is for `scale_experts`"),
        ({"operation": "expert_add", "like": "x", "coefficient": 2}, "leave out coefficient"),
        ({"operation": "expert_add", "coefficient": 2}, "selected together with the experts"),
        ({"operation": "expert_add", "experts": []}, "`experts` is empty"),
        ({"operation": "expert_add", "experts": [[1]]}, "at least 2 items"),
    ],
)
def test_settings_that_contradict_each_other_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_arm(settings)
