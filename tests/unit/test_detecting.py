import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import torch

from steer.activations import dump
from steer.artifacts.files import write_jsonl
from steer.artifacts.origin import read_provenance
from steer.artifacts.routing import write_routing
from steer.config import ActivationSettings, DetectionSettings, DirectionSettings
from steer.detection.detecting import Inputs, detect, strongest
from steer.directions.experts import estimate_expert_directions
from steer.directions.refusal import estimate_directions
from steer.errors import SteerError
from steer.models.loading import LoadedModel
from steer.models.scoring import refusal_score
from tests.activation_sets import REFUSAL_TOKENS
from tests.study import Study, make_study, prompts_of
from tests.tiny import EXPERTS

P = 3
Tiny = Callable[[str], LoadedModel]


def _inputs(study: Study) -> Inputs:
    """Everything that the stage reads, made by the stages before it, but a routing table of known numbers."""
    paths = []
    for label in ("harmful", "harmless"):
        paths.append(study.path(f"{label}.h5"))
        prompts = prompts_of(label, 15)  # type: ignore[arg-type]
        dump(study.loaded, study.facts, prompts, paths[-1], study.settings, ActivationSettings(positions=P))
    refusal, forced, facts = map(study.path, ("refusal.safetensors", "experts.safetensors", "model.json"))
    estimate_directions(paths, refusal, DirectionSettings(filter=False))
    record = refusal.with_suffix(".json")
    estimate_expert_directions(facts, paths, record, forced, study.settings)
    _write_table(study.path("prompt.csv"), study.loaded.sites.moe_layers)
    prompts_of_sets = study.path("harmful.jsonl"), study.path("harmless.jsonl")
    return Inputs(facts, *prompts_of_sets, record, refusal, forced, (study.path("prompt.csv"),))


def _write_table(path: Path, layers: tuple[int, ...]) -> None:
    places = [(layer, expert) for layer in layers for expert in range(EXPERTS)]
    signs = np.array([(-1.0) ** expert for _, expert in places])
    columns: dict[str, Any] = {
        "layer": np.array([float(layer) for layer, _ in places]),
        "expert": np.array([float(expert) for _, expert in places]),
        "risk_difference": signs * 0.25,
        "top1_difference": signs * 0.125,
        "log_odds_ratio": signs * 2.0,
        "prompt_stability": np.full(len(places), 0.5),
    }
    write_routing(path, columns)


def _detect(study: Study, inputs: Inputs, exact: int = 99) -> list[dict[str, str]]:
    out = study.path("detection.csv")
    detect(inputs, out, study.settings, DetectionSettings(prompts=4, exact=exact), P, seed=0)
    assert read_provenance(out)["stage"] == "steer.detection.detecting"
    with out.open() as stream:
        return list(csv.DictReader(stream))


def _logits_by_hand(loaded: LoadedModel, ids: list[int], layer: int, expert: int | None) -> torch.Tensor:
    """Logits of one row with an expert's router logit at minus infinity."""

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        logits = output[0].clone()
        if expert is not None:
            logits[:, expert] = -torch.inf
        return (output[0], *loaded.sites.rule.route(logits))  # type: ignore[union-attr]

    handle = loaded.model.model.layers[layer].mlp.gate.register_forward_hook(hook)
    try:
        with torch.no_grad():
            logits: torch.Tensor = loaded.model(input_ids=torch.tensor([ids])).logits
    finally:
        handle.remove()
    return logits


def _masked_by_hand(loaded: LoadedModel, ids: list[int], layer: int, expert: int | None) -> float:
    """Refusal score of one prompt under such a mask."""
    return float(refusal_score(_logits_by_hand(loaded, ids, layer, expert)[:, -1], REFUSAL_TOKENS))


@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe_mixed"])
def test_masking_is_that_of_one_prompt_and_one_expert_at_a_time(
    tiny: Tiny, tmp_path: Path, family: str
) -> None:
    study = make_study(tmp_path, tiny(family), count=15)
    inputs = _inputs(study)
    rows = _detect(study, inputs)
    assert len(rows) == len(study.loaded.sites.moe_layers) * EXPERTS
    kept = sorted(json.loads(inputs.record.read_text())["harmful"])[:4]
    tokens = [study.loaded.encode(p.text) for p in prompts_of("harmful", 15) if p.id in kept]
    for row in rows[::3]:
        layer, expert = int(row["layer"]), int(row["expert"])
        by_hand = [
            _masked_by_hand(study.loaded, ids, layer, None)
            - _masked_by_hand(study.loaded, ids, layer, expert)
            for ids in tokens
        ]
        assert float(row["mask_effect"]) == pytest.approx(mean(by_hand), rel=1e-3, abs=1e-4)
        assert float(row["mask_effect_low"]) <= float(row["mask_effect"]) <= float(row["mask_effect_high"])
    assert max(abs(float(row["mask_effect"])) for row in rows) > 0.01


def test_routing_tables_become_signed_detectors(tiny: Tiny, tmp_path: Path) -> None:
    study = make_study(tmp_path, tiny("olmoe"), count=15)
    inputs = _inputs(study)
    rows = _detect(study, inputs, exact=5)
    names = ("prompt_top_k", "prompt_top_1", "prompt_log_odds", "prompt_stability")
    for row in rows:
        sign = (-1) ** int(row["expert"])
        expected = [sign * value for value in (0.25, 0.125, 2.0, 0.5)]
        assert [float(row[name]) for name in names] == expected
    measured = [row for row in rows if row["mask_effect"]]
    assert len(measured) == 5

    # Those with the largest estimate are the ones that are measured.
    def size(row: dict[str, str]) -> float:
        return max(abs(float(row["gate_gradient"])), abs(float(row["contrast_gradient"])))

    least = min(map(size, measured))
    assert all(size(row) <= least for row in rows if not row["mask_effect"])


def _write_pairs(study: Study, train: bool = True) -> tuple[Path, Path]:
    paths = study.path("refusing.jsonl"), study.path("complying.jsonl")
    for path, reply in zip(paths, ("no, sorry", "yes: one"), strict=True):
        rows = [
            {
                "id": f"{path.stem}{n}",
                "text": f"tell me {n}",
                "label": "harmful",
                "pair": f"p{n}",
                "target": reply,
            }
            | {"split": "train" if train else "test", "category": "", "source": "tests"}
            for n in range(6)
        ]
        write_jsonl(path, rows)
    return paths


def test_detectors_on_replies_mask_by_hand_alike(tiny: Tiny, tmp_path: Path) -> None:
    study = make_study(tmp_path, tiny("olmoe"), count=15)
    inputs = replace(_inputs(study), pairs=_write_pairs(study))
    rows = _detect(study, inputs)
    loaded = study.loaded

    def log_p(number: int, reply: str, layer: int, expert: int | None) -> float:
        prompt, told = loaded.encode(f"tell me {number}"), loaded.tokenizer.encode(reply)
        logits = _logits_by_hand(loaded, [*prompt, *told], layer, expert)[0].log_softmax(-1)
        return mean(float(logits[len(prompt) + at - 1, token]) for at, token in enumerate(told))

    for row in rows[::7]:
        layer, expert = int(row["layer"]), int(row["expert"])
        losses = [
            sum(
                sign * (log_p(n, reply, layer, None) - log_p(n, reply, layer, expert))
                for sign, reply in ((1, "no, sorry"), (-1, "yes: one"))
            )
            for n in range(4)
        ]
        assert float(row["reply_effect"]) == pytest.approx(mean(losses), rel=1e-3, abs=1e-4)
        assert row["reply_gradient"]


def test_pairs_that_are_not_for_training_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    study = make_study(tmp_path, tiny("olmoe"), count=15)
    inputs = replace(_inputs(study), pairs=_write_pairs(study, train=False))
    with pytest.raises(SteerError, match="no training pair in common"):
        _detect(study, inputs)


def test_a_routing_table_of_another_model_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    study = make_study(tmp_path, tiny("olmoe"), count=15)
    inputs = _inputs(study)
    _write_table(study.path("prompt.csv"), (0, 1))
    with pytest.raises(SteerError, match="16 rows, but the model has 4 MoE layers of 8 experts"):
        _detect(study, inputs)


def test_the_strongest_are_named_by_place_with_ties_in_order() -> None:
    table = {"gate_gradient": torch.tensor([[0.0, -3.0], [1.0, 1.0]])}
    table["contrast_gradient"] = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    assert strongest(table, 3) == [(0, 1), (0, 0), (1, 0)]
