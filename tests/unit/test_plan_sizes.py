"""Sizes in a plan: parameters as published, and weights, caches and files of scaled models."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from steer.activations import dump
from steer.catalogue import known_models
from steer.cli.records import anatomy_for
from steer.config import ActivationSettings, ModelSettings
from steer.models.loading import LoadedModel, load_checkpoint
from steer.plan.anatomy import anatomy_of, count
from steer.plan.sizes import batch_bytes, cache_bytes, hdf5_bytes, weight_bytes
from steer.upcycling.settings import UpcycleSettings
from steer.upcycling.sparse import upcycled
from tests.activation_sets import MODEL_FACTS, make_prompts
from tests.tiny import build_model, save_checkpoint

MEASURED = 0.15
"""How far a plan's bytes may be from those of a real file."""


@pytest.mark.parametrize("name", known_models())
def test_every_known_architecture_comes_out_as_published(name: str) -> None:
    row = known_models()[name]
    found = anatomy_of(row.config, name)
    assert found.parameters == pytest.approx(row.parameters * 1e9, rel=0.01)


def test_mxfp4_packs_experts_alone() -> None:
    gpt_oss = anatomy_of(known_models()["openai/gpt-oss-120b"].config, "gpt-oss")
    # The published files hold 65.2 GB.
    assert weight_bytes(gpt_oss, "mxfp4") == pytest.approx(65.2e9, rel=0.01)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe_mixed", "llama"])
def test_planned_weights_are_those_of_a_saved_checkpoint(family: str, dtype: Any, tmp_path: Path) -> None:
    model = build_model(family, hidden_size=64)
    found = count(model, 8 if "moe" in family else 0)
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path)
    stored = (tmp_path / "model.safetensors").stat().st_size
    assert weight_bytes(found, dtype) == pytest.approx(stored, rel=MEASURED)


SHAPES = {
    "wide": ("olmoe", {"hidden_size": 128, "num_experts": 32, "num_hidden_layers": 3}),
    "dense": ("llama", {"hidden_size": 96}),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_planned_activation_files_are_those_that_are_written(shape: str, dtype: Any, tmp_path: Path) -> None:
    family, changes = SHAPES[shape]
    folder = save_checkpoint(tmp_path / "checkpoint", family, **changes)
    loaded = load_checkpoint(folder, dtype=dtype)
    anatomy = count(loaded.model, loaded.experts)
    settings = ModelSettings(path=str(folder), dtype=dtype, batch_size=8)
    prompts = [replace(prompt, text=f"{prompt.text} and five words more") for prompt in make_prompts(16)]
    storages = [("float32", "zstd"), ("float16", "zstd")]
    if (shape, dtype) == ("dense", "float32"):
        storages += [("float32", "gzip"), ("float32", "none")]
    for stored, compression in storages:
        reading = ActivationSettings(dtype=stored, compression=compression)
        out = tmp_path / f"{stored}-{compression}.h5"
        dump(loaded, replace(MODEL_FACTS, layers=loaded.layers), prompts, out, settings, reading)
        planned = hdf5_bytes(anatomy, reading, dtype) * len(prompts)
        assert planned == pytest.approx(out.stat().st_size, rel=MEASURED), (stored, compression)


@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe", "llama"])
def test_the_planned_cache_is_the_one_that_is_kept(family: str, tiny: Callable[[str], LoadedModel]) -> None:
    loaded = tiny(family)
    batch = loaded.batch([[1, 2, 3, 4, 5, 6, 7]] * 2)
    cache = loaded.model(input_ids=batch.input_ids, use_cache=True).past_key_values
    kept = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
    assert cache_bytes(count(loaded.model, loaded.experts), 7, "float32") * 2 == kept
    assert batch_bytes(count(loaded.model, loaded.experts), 2, 7, "float32") > kept


def test_an_upcycled_model_is_planned_as_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = build_model("llama")
    settings = UpcycleSettings(first_layer=1, layers=2, experts=4, source="tiny")
    routers = {layer: torch.zeros(4, int(dense.config.hidden_size)) for layer in settings.moe_layers}
    made = count(upcycled(dense, settings, routers, {}), 4)
    monkeypatch.setattr("steer.catalogue.architecture", lambda _: dense.config.to_dict())
    assert anatomy_for("mine", ModelSettings(upcycle=settings)) == made
    assert (made.moe_layers, made.experts) == (2, 4)
