import csv
import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from steer.config import ArditiSettings
from steer.errors import SteerError
from steer.models.interventions import Arm, Operation
from steer.models.loading import LoadedModel
from steer.selection.arditi import select
from steer.selection.candidates import Directions
from tests.oracles import forward
from tests.study import POSITIONS, Study, make_study, prompts_of
from tests.tiny import LAYERS

OPEN = ArditiSettings(kl_threshold=1e9, induce_threshold=-1e9, prune_layers=0)
Tiny = Callable[[str], LoadedModel]


@pytest.fixture
def study(tiny: Tiny, tmp_path: Path) -> Study:
    return make_study(tmp_path, tiny("olmoe"))


def _select(study: Study, settings: ArditiSettings = OPEN) -> tuple[list[dict[str, str]], dict[str, Any]]:
    select(*study.inputs, study.path("arditi"), study.settings, settings, POSITIONS)
    return _table(study.path("arditi.csv")), json.loads(study.path("arditi.json").read_text())


def _middle(values: list[float], index: int) -> float:
    return (values[index] + values[index + 1]) / 2


def _table(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def _ids(study: Study, label: str) -> list[list[int]]:
    return [study.loaded.encode(prompt.text) for prompt in prompts_of(label, 12) if prompt.split == "val"]


def _oracle(study: Study, layer: int, position: int) -> tuple[float, float, float]:
    """(bypass, induce, KL) of a candidate, a prompt at a time, from hooks set by hand."""
    direction = study.directions.direction[layer, position]
    basis = {"t": (direction / direction.norm())[None]}
    ablation = Arm("", (Operation("ablate", "t"),), basis)
    addition = Arm("", (Operation("add", "t", layer),), {"t": direction})
    tokens = study.facts.refusal_token_ids
    harmful, harmless = _ids(study, "harmful"), _ids(study, "harmless")

    def refusal(ids: list[int], arm: Arm) -> float:
        return forward.refusal_score(forward.logits(study.loaded, ids, arm), tokens)

    def divergence(ids: list[int]) -> float:
        return forward.kl(*(forward.logits(study.loaded, ids, arm) for arm in (Arm(""), ablation)))

    return (
        mean([refusal(ids, ablation) for ids in harmful]),
        mean([refusal(ids, addition) for ids in harmless]),
        mean([divergence(ids) for ids in harmless]),
    )


@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe_mixed", "llama"])
def test_scores_are_those_of_one_prompt_and_one_candidate_at_a_time(
    tiny: Tiny, tmp_path: Path, family: str
) -> None:
    study = make_study(tmp_path, tiny(family))
    rows, _ = _select(study)
    assert len(rows) == LAYERS * POSITIONS
    for row in rows:
        place = int(row["layer"]), int(row["position"])
        if place == (0, -1):
            assert (row["status"], row["bypass_score"], row["kl"]) == ("zero direction", "", "")
            continue
        found = [float(row[name]) for name in ("bypass_score", "induce_score", "kl")]
        assert found == pytest.approx(_oracle(study, *place), rel=1e-4, abs=1e-5)
        assert float(row["direction_norm"]) == pytest.approx(float(study.directions.at(*place).norm()))


def test_the_lowest_bypass_score_is_chosen(study: Study) -> None:
    rows, record = _select(study)
    scored = sorted((row for row in rows if row["bypass_score"]), key=lambda row: float(row["bypass_score"]))
    expected = [{"layer": int(row["layer"]), "position": int(row["position"])} for row in scored]
    assert record["candidates"] == expected
    assert record["choice"] == expected[0]
    assert [row["status"] for row in scored] == ["chosen"] + ["kept"] * (len(scored) - 1)
    assert [int(row["rank"]) for row in scored] == list(range(1, len(scored) + 1))


def test_candidates_beyond_a_threshold_are_in_the_table_but_not_ranked(study: Study) -> None:
    rows, _ = _select(study)
    scored = [row for row in rows if row["kl"]]
    # Between two candidates, since the table rounds.
    kl = _middle(sorted(float(row["kl"]) for row in scored), len(scored) // 2)
    induce = _middle(sorted(float(row["induce_score"]) for row in scored), 3)
    settings = ArditiSettings(kl_threshold=kl, induce_threshold=induce, prune_layers=0.25)
    found, record = _select(study, settings)
    for row, before in zip(found, rows, strict=True):
        assert {name: row[name] for name in row if name not in ("status", "rank")} == {
            name: before[name] for name in before if name not in ("status", "rank")
        }
        if not row["kl"]:
            expected = "zero direction"
        elif int(row["layer"]) >= 3:
            expected = "pruned layer"
        elif float(row["kl"]) > kl:
            expected = "KL too large"
        elif float(row["induce_score"]) < induce:
            expected = "induces no refusal"
        else:
            expected = "kept"
        assert row["status"].replace("chosen", "kept") == expected
        assert bool(row["rank"]) == (expected == "kept")
    statuses = [row["status"] for row in found]
    assert {"zero direction", "pruned layer", "KL too large", "induces no refusal", "chosen"} <= {*statuses}
    assert len(record["candidates"]) == statuses.count("kept") + 1


def test_when_nothing_is_left_the_table_is_kept_and_the_nearest_are_named(study: Study) -> None:
    rows, _ = _select(study)
    for name in ("arditi.csv", "arditi.json"):
        study.path(name).unlink()
    with pytest.raises(SteerError, match="every candidate is filtered out") as caught:
        _select(study, ArditiSettings(kl_threshold=1e-9))
    best = min((row for row in rows if row["kl"]), key=lambda row: float(row["bypass_score"]))
    assert f"nearest: layer {best['layer']} position {best['position']} (" in caught.value.cause
    assert "arditi.rejected.csv" in caught.value.cause
    assert "selection.arditi" in caught.value.next_step
    kept = _table(study.path("arditi.rejected.csv"))
    assert [row["bypass_score"] for row in kept] == [row["bypass_score"] for row in rows]
    assert {row["status"] for row in kept} == {"zero direction", "KL too large"}
    assert not study.path("arditi.csv").exists()
    assert not study.path("arditi.json").exists()
    _select(study)
    assert not study.path("arditi.rejected.csv").exists()


def test_directions_that_are_zero_everywhere_are_an_explained_error(study: Study) -> None:
    zero = Directions(study.directions.direction * 0, study.directions.harmless_mean)
    study.write_directions(zero)
    with pytest.raises(SteerError, match="every candidate is filtered out"):
        _select(study)
    assert {row["status"] for row in _table(study.path("arditi.rejected.csv"))} == {"zero direction"}


def test_only_prompts_of_val_choose(study: Study) -> None:
    rows, record = _select(study)
    for label in ("harmful", "harmless"):
        others = [prompt for prompt in prompts_of(label, 40) if prompt.split != "val"][5:]
        val = [prompt for prompt in prompts_of(label, 12) if prompt.split == "val"]
        study.write_prompts(label, [*others, *val])
    again, other = _select(study)
    assert (again, other["candidates"]) == (rows, record["candidates"])


def test_the_size_of_a_batch_and_a_rerun_change_nothing(study: Study, tiny: Tiny, tmp_path: Path) -> None:
    rows, _ = _select(study)
    first = [study.path(name).read_bytes() for name in ("arditi.csv", "arditi.json")]
    _select(study)
    assert [study.path(name).read_bytes() for name in ("arditi.csv", "arditi.json")] == first
    one = make_study(tmp_path / "one", tiny("olmoe"), batch_size=3)
    for row, other in zip(rows, _select(one)[0], strict=True):
        assert row["status"] == other["status"]
        if row["kl"]:
            numbers = [
                [float(r[name]) for name in ("bypass_score", "induce_score", "kl")] for r in (row, other)
            ]
            assert numbers[0] == pytest.approx(numbers[1], rel=1e-4, abs=1e-6)


def test_prompts_or_directions_that_can_not_be_used_are_named(study: Study) -> None:
    study.write_prompts("harmless", prompts_of("harmless", 6, ("train",)))
    with pytest.raises(SteerError, match=r"harmless\.jsonl: has no `val` prompts"):
        _select(study)
    study.write_prompts("harmless", prompts_of("harmless", 6))
    study.write_directions(study.directions, model="another")
    with pytest.raises(SteerError, match=r"refusal\.safetensors: is of another model"):
        _select(study)
    assert not study.path("arditi.json").exists()
