import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from steer.config import CosmicSettings
from steer.errors import SteerError
from steer.models.interventions import Arm, Operation
from steer.models.loading import LoadedModel
from steer.selection.candidates import Directions
from steer.selection.cosmic import select
from tests.oracles import forward
from tests.study import POSITIONS, Study, make_study, prompts_of
from tests.tiny import LAYERS

Tiny = Callable[[str], LoadedModel]
OPEN = CosmicSettings(layers=0.5, prune_layers=0)


def _select(study: Study, settings: CosmicSettings = OPEN) -> tuple[list[dict[str, str]], dict[str, Any]]:
    select(*study.inputs, study.path("cosmic"), study.settings, settings, POSITIONS)
    with study.path("cosmic.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return rows, json.loads(study.path("cosmic.json").read_text())


def _mean(study: Study, label: str, arm: Arm) -> Tensor:
    """Mean activation in front of layers 1 to L, `[L, P·d]`, a prompt at a time."""
    ids = [study.loaded.encode(prompt.text) for prompt in prompts_of(label, 12) if prompt.split == "val"]
    seen = [forward.entering(study.loaded, one, arm, POSITIONS) for one in ids]
    return (sum(seen) / len(seen)).flatten(1)  # type: ignore[union-attr]


def _cosine(a: Tensor, b: Tensor) -> float:
    dot = sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))
    return float(dot / math.sqrt(float(a @ a) * float(b @ b)))


def _oracle(study: Study, layer: int, position: int, layers: list[int]) -> tuple[float, float]:
    direction = study.directions.direction[layer, position]
    ablation = Arm("", (Operation("ablate", "t"),), {"t": (direction / direction.norm())[None]})
    addition = Arm("", (Operation("add", "t", layer),), {"t": direction})
    ablated, steered = _mean(study, "harmful", ablation), _mean(study, "harmless", addition)
    harmful, harmless = _mean(study, "harmful", Arm("")), _mean(study, "harmless", Arm(""))
    comply = sum(_cosine(ablated[one], harmless[one]) for one in layers) / len(layers)
    refuse = sum(_cosine(steered[one], harmful[one]) for one in layers) / len(layers)
    return comply, refuse


def _least_similar(study: Study, count: int) -> list[int]:
    harmful, harmless = _mean(study, "harmful", Arm("")), _mean(study, "harmless", Arm(""))
    return sorted(sorted(range(LAYERS), key=lambda one: _cosine(harmful[one], harmless[one]))[:count])


@pytest.mark.parametrize("family", ["olmoe", "qwen3"])
def test_scores_are_those_of_one_prompt_and_one_candidate_at_a_time(
    tiny: Tiny, tmp_path: Path, family: str
) -> None:
    study = make_study(tmp_path, tiny(family), batch_size=3)
    rows, record = _select(study)
    layers = _least_similar(study, 2)
    assert f"over layers {layers[0]}, {layers[1]}" in record["why"]
    assert len(rows) == LAYERS * POSITIONS
    for row in rows:
        place = int(row["layer"]), int(row["position"])
        if place == (0, -1):
            assert (row["status"], row["score"]) == ("zero direction", "")
            continue
        comply, refuse = _oracle(study, *place, layers)
        assert float(row["comply_similarity"]) == pytest.approx(comply, abs=1e-5)
        assert float(row["refuse_similarity"]) == pytest.approx(refuse, abs=1e-5)
        assert float(row["score"]) == pytest.approx(comply + refuse, abs=1e-5)


def test_the_largest_score_outside_the_pruned_layers_is_chosen(tiny: Tiny, tmp_path: Path) -> None:
    study = make_study(tmp_path, tiny("olmoe"))
    rows, record = _select(study, CosmicSettings(layers=0.5, prune_layers=0.5))
    allowed = [row for row in rows if int(row["layer"]) < 2 and row["score"]]
    best = sorted(allowed, key=lambda row: -float(row["score"]))
    assert record["candidates"] == [
        {"layer": int(row["layer"]), "position": int(row["position"])} for row in best
    ]
    assert [row["status"] for row in best] == ["chosen"] + ["kept"] * (len(best) - 1)
    assert {row["status"] for row in rows if int(row["layer"]) >= 2} == {"pruned layer"}


def test_at_least_one_layer_is_scored(tiny: Tiny, tmp_path: Path) -> None:
    study = make_study(tmp_path, tiny("olmoe"))
    _, record = _select(study, CosmicSettings(layers=0.0, prune_layers=0))
    assert record["why"].endswith(f"over layers {_least_similar(study, 1)[0]}")


def test_when_nothing_is_left_the_table_is_kept_and_the_error_says_so(tiny: Tiny, tmp_path: Path) -> None:
    study = make_study(tmp_path, tiny("olmoe"))
    study.write_directions(Directions(study.directions.direction * 0, study.directions.harmless_mean))
    with pytest.raises(SteerError, match="cosmic: every candidate is filtered out"):
        _select(study)
    assert study.path("cosmic.rejected.csv").exists()
    assert not study.path("cosmic.json").exists()


def test_no_hook_is_left_behind(tiny: Tiny, tmp_path: Path) -> None:
    study = make_study(tmp_path, tiny("olmoe"))

    def count() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in study.loaded.model.modules())

    # transformers leaves its own on a model that was ever asked for its hidden states.
    before = count()
    _select(study)
    assert count() == before
