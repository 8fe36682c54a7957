import csv
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from steer.activations import dump
from steer.artifacts.origin import read_provenance
from steer.artifacts.tensors import read_tensors
from steer.config import ActivationSettings, DirectionSettings
from steer.decomposition import decompose
from steer.directions.experts import estimate_expert_directions
from steer.directions.refusal import estimate_directions
from steer.models.loading import LoadedModel
from tests.study import Study, make_study, prompts_of
from tests.tiny import EXPERTS, HIDDEN, LAYERS

P = 3
Tiny = Callable[[str], LoadedModel]
Table = list[dict[str, str]]


def _decomposed(study: Study, *, experts: bool = True) -> dict[str, Table]:
    paths = []
    for label in ("harmful", "harmless"):
        paths.append(study.path(f"{label}.h5"))
        prompts = prompts_of(label, 9)  # type: ignore[arg-type]
        dump(study.loaded, study.facts, prompts, paths[-1], study.settings, ActivationSettings(positions=P))
    refusal, forced, facts = (
        study.path(n) for n in ("refusal.safetensors", "experts.safetensors", "model.json")
    )
    estimate_directions(paths, refusal, DirectionSettings(filter=False))
    if experts:
        estimate_expert_directions(facts, paths, refusal.with_suffix(".json"), forced, study.settings)
    decompose(facts, refusal, forced if experts else None, study.path("decomposition"), study.settings, P)
    return {
        name: _table(study.path(f"decomposition/{name}.csv")) for name in ("writes", "experts", "cosines")
    }


def _table(path: Path) -> Table:
    assert read_provenance(path)["stage"] == "steer.decomposition"
    with path.open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe_mixed", "llama"])
def test_shares_of_every_direction_add_up_to_one(tiny: Tiny, tmp_path: Path, family: str) -> None:
    tables = _decomposed(make_study(tmp_path, tiny(family)), experts=family != "llama")
    sums = []
    for (to_layer, _), rows in groupby(tables["writes"], key=lambda row: (row["to_layer"], row["position"])):
        writes = list(rows)
        assert len(writes) == 1 + 2 * int(to_layer)
        sums.append(sum(float(row["share"]) for row in writes))
    # The template's last tokens are the same for both classes: there is no direction at the input.
    assert len(sums) == LAYERS * P
    assert sums == pytest.approx([1.0] * len(sums), abs=1e-3)
    assert bool(tables["experts"]) == (family != "llama")


def test_cosines_are_those_of_the_vectors_themselves(tiny: Tiny, tmp_path: Path) -> None:
    study = make_study(tmp_path, tiny("qwen3_moe_mixed"))
    tables = _decomposed(study)
    moe = study.loaded.sites.moe_layers
    shapes = {"forced.direction": (len(moe), EXPERTS, P, HIDDEN)}
    forced = read_tensors(study.path("experts.safetensors"), model="m1", shapes=shapes).tensors
    residual = read_tensors(study.path("refusal.safetensors"), model="m1", shapes={}).tensors
    assert len(tables["experts"]) == len(moe) * EXPERTS * P
    for row in tables["experts"]:
        layer, expert, at = (int(row[name]) for name in ("layer", "expert", "position"))
        mine = forced["forced.direction"][moe.index(layer), expert, at].numpy()
        router = study.loaded.model.model.layers[layer].mlp.gate.weight[expert].detach().numpy()
        others = {
            "residual": residual["residual.direction"][layer + 1, at].numpy(),
            "attention": residual["attention_out.direction"][layer, at].numpy(),
            "mlp": residual["mlp_out.direction"][layer, at].numpy(),
            "router_row": router,
        }
        for name, other in others.items():
            cosine = np.dot(mine, other) / (np.linalg.norm(mine) * np.linalg.norm(other))
            assert float(row[name]) == pytest.approx(cosine, abs=1e-5)
        assert float(row["norm"]) == pytest.approx(float(np.linalg.norm(mine)), rel=1e-5)


def test_the_table_of_pairs_names_the_longest_experts_and_is_one_on_its_diagonal(
    tiny: Tiny, tmp_path: Path
) -> None:
    study = make_study(tmp_path, tiny("olmoe"))
    tables = _decomposed(study)
    pairs = {(row["first"], row["second"]): row["cosine"] for row in tables["cosines"]}
    names = list(dict.fromkeys(first for first, _ in pairs))
    assert len(pairs) == len(names) * (len(names) + 1) // 2
    last = [row for row in tables["experts"] if row["position"] == "-1"]
    longest = sorted(last, key=lambda row: -float(row["norm"]))[:12]
    assert {name for name in names if name.startswith("expert")} == {
        f"expert {row['layer']}:{row['expert']}" for row in longest
    }
    assert [float(pairs[name, name]) for name in names if pairs[name, name]] == pytest.approx(
        [1.0] * (len(names) - 1)
    )
    # Nothing differs at the input of layer 0, so that direction has no cosine.
    assert pairs["residual 0", "residual 0"] == ""
