import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from steer import activations
from steer.activations import dump, dump_activations, parts_folder, plan
from steer.artifacts.activations import ROUTER_DATASETS, ActivationFile
from steer.artifacts.facts import ModelFacts, write_facts
from steer.artifacts.files import write_jsonl
from steer.artifacts.parts import Part
from steer.config import ActivationSettings, ModelSettings
from steer.errors import SteerError
from steer.models.loading import LoadedModel, load_checkpoint
from steer.models.spans import Marked
from steer.models.study import checkpoint_files
from tests.activation_sets import REFUSAL_TOKENS, facts_of, make_prompts
from tests.tiny import EXPERTS, HIDDEN, LAYERS, TOP_K

N, P = 20, 5
PROMPTS = make_prompts(N)
MODEL = ModelSettings(path="unused", batch_size=8)
SETTINGS = ActivationSettings()
Tiny = Callable[[str], LoadedModel]


def _dump(
    loaded: LoadedModel, out: Path, model: ModelSettings = MODEL, settings: ActivationSettings = SETTINGS
) -> Path:
    dump(loaded, facts_of(loaded), PROMPTS, out, model, settings)
    return out


def _assert_close(found: np.ndarray, expected: np.ndarray, name: str = "") -> None:
    """Equal to 1e-5 of each vector's length: numbers near zero carry the rounding of large ones."""
    error = np.linalg.norm(found - expected, axis=-1)
    assert (error <= 1e-5 * np.linalg.norm(expected, axis=-1)).all(), name


def _marked(ids: list[int]) -> Marked:
    return Marked(tuple(ids), len(ids), (0, len(ids)))


def _read(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: dataset[...] for name, dataset in file.items()}


def test_the_file_has_the_shapes_and_types_of_the_contract(
    tiny: Tiny, any_family: str, tmp_path: Path
) -> None:
    loaded = tiny(any_family)
    moe = len(loaded.sites.moe_layers)
    found = {
        name: (column.shape, column.dtype.name)
        for name, column in _read(_dump(loaded, tmp_path / "a.h5")).items()
    }
    expected = {
        "n_tokens": ((N,), "int32"),
        "token_count": ((N,), "int32"),
        "refusal_score": ((N,), "float32"),
        "residual": ((N, LAYERS + 1, P, HIDDEN), "float32"),
        "attention_out": ((N, LAYERS, P, HIDDEN), "float32"),
        "mlp_out": ((N, LAYERS, P, HIDDEN), "float32"),
        "moe_input": ((N, moe, P, HIDDEN), "float32"),
        "router_logits": ((N, moe, P, EXPERTS), "float32"),
        "expert_index": ((N, moe, P, TOP_K), "int16"),
        "expert_weight": ((N, moe, P, TOP_K), "float32"),
        "expert_count": ((N, moe, EXPERTS), "int32"),
        "strongest_count": ((N, moe, EXPERTS), "int32"),
    }
    text = ("prompt_id", "split", "label")
    assert {name: fact for name, fact in found.items() if name not in text} == {
        name: fact for name, fact in expected.items() if moe or name not in ROUTER_DATASETS
    }
    with ActivationFile(tmp_path / "a.h5", model="m1", prompt_ids=[prompt.id for prompt in PROMPTS]) as file:
        assert file.moe_layers == loaded.sites.moe_layers


def test_each_layer_adds_to_the_residual_what_its_attention_and_mlp_write(
    tiny: Tiny, any_family: str, tmp_path: Path
) -> None:
    seen = _read(_dump(tiny(any_family), tmp_path / "a.h5"))
    added = seen["residual"][:, 1:] - seen["residual"][:, :-1]
    np.testing.assert_allclose(added, seen["attention_out"] + seen["mlp_out"], rtol=0, atol=2e-5)


def test_ragged_batches_equal_one_prompt_at_a_time(tiny: Tiny, any_family: str, tmp_path: Path) -> None:
    loaded = tiny(any_family)
    together = _read(_dump(loaded, tmp_path / "a.h5"))
    alone = _read(_dump(loaded, tmp_path / "b.h5", MODEL.model_copy(update={"batch_size": 1})))
    assert len(set(together["n_tokens"][:8])) > 1
    for name in together:
        if name == "refusal_score":
            np.testing.assert_allclose(together[name], alone[name], rtol=1e-5)
        elif together[name].dtype.kind == "f":
            _assert_close(together[name], alone[name], name)
        else:
            np.testing.assert_array_equal(together[name], alone[name], err_msg=name)


@torch.inference_mode()
def test_the_residual_is_what_transformers_itself_reports_at_the_last_tokens(
    tiny: Tiny, tmp_path: Path
) -> None:
    loaded = tiny("olmoe")
    seen = _read(_dump(loaded, tmp_path / "a.h5"))
    for row in (0, 7, 13):
        ids = loaded.encode(PROMPTS[row].text)
        output = loaded.model(torch.tensor([ids]), output_hidden_states=True)
        # The last of transformers' hidden states has the final norm behind it; ours has not.
        for layer in range(LAYERS):
            expected = output.hidden_states[layer][0, -P:].numpy()
            _assert_close(seen["residual"][row, layer], expected)
        p = torch.softmax(output.logits[0, -1].double(), dim=-1)[list(REFUSAL_TOKENS)].sum()
        assert seen["refusal_score"][row] == pytest.approx(float(torch.log(p / (1 - p))), abs=1e-5)
        assert seen["n_tokens"][row] == len(ids)


def test_expert_counts_are_those_of_the_chosen_experts(tiny: Tiny, tmp_path: Path) -> None:
    seen = _read(_dump(tiny("qwen3_moe_mixed"), tmp_path / "a.h5"))
    index = seen["expert_index"].reshape(N, -1, P * TOP_K)
    for row in range(N):
        for layer in range(index.shape[1]):
            expected = np.bincount(index[row, layer], minlength=EXPERTS)
            np.testing.assert_array_equal(seen["expert_count"][row, layer], expected)
            strongest = np.bincount(seen["expert_index"][row, layer, :, 0], minlength=EXPERTS)
            np.testing.assert_array_equal(seen["strongest_count"][row, layer], strongest)
    assert (seen["expert_weight"][..., :-1] >= seen["expert_weight"][..., 1:]).all()


def test_batches_are_made_of_similar_lengths_and_cover_the_set(tmp_path: Path) -> None:
    tokens = [_marked([0] * len(prompt.text)) for prompt in PROMPTS]
    parts = plan(tokens, PROMPTS, 8, tmp_path, "origin")
    lengths = [len(tokens[row].ids) for part in parts for row in part.rows]
    assert lengths == sorted(lengths)
    assert sorted(row for part in parts for row in part.rows) == list(range(N))
    assert [len(part.rows) for part in parts] == [8, 8, 4]


def test_a_part_has_another_name_when_anything_behind_it_differs(tmp_path: Path) -> None:
    tokens = [_marked([1, 2, 3])] * N
    changed = [*tokens[:-1], _marked([1, 2, 4])]
    renamed = [*PROMPTS[:-1], replace(PROMPTS[-1], id="other")]
    plans = [
        plan(tokens, PROMPTS, N, tmp_path, "origin"),
        plan(changed, PROMPTS, N, tmp_path, "origin"),
        plan(tokens, renamed, N, tmp_path, "origin"),
        plan(tokens, PROMPTS, N, tmp_path, "other"),
    ]
    assert len({parts[0].path for parts in plans}) == len(plans)


def test_a_stopped_dump_goes_on_after_its_finished_batches_with_the_same_bytes(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tiny("olmoe")
    whole = _dump(loaded, tmp_path / "whole.h5")
    read_batch, batches = activations.read_batch, []

    def stop_at_the_third(*arguments: object) -> object:
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(arguments)
        return read_batch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(activations, "read_batch", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        _dump(loaded, tmp_path / "stopped.h5")
    assert not (tmp_path / "stopped.h5").exists()
    assert len(list(parts_folder(tmp_path / "stopped.h5").iterdir())) == 2
    batches.clear()
    _dump(loaded, tmp_path / "stopped.h5")
    assert len(batches) == 1
    assert (tmp_path / "stopped.h5").read_bytes() == whole.read_bytes()
    assert not parts_folder(tmp_path / "stopped.h5").exists()


def test_parts_made_by_two_jobs_join_into_the_bytes_of_one(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tiny("olmoe")
    whole = _dump(loaded, tmp_path / "a" / "set.h5")
    out = tmp_path / "b" / "set.h5"
    read_parts = activations.read_parts
    for shard in (slice(1, None, 2), slice(None, None, 2)):

        def read_shard(
            loaded: LoadedModel, facts: ModelFacts, parts: list[Part], *rest: Any, shard: slice = shard
        ) -> None:
            read_parts(loaded, facts, parts[shard], *rest)

        monkeypatch.setattr(activations, "read_parts", read_shard)
        monkeypatch.setattr(activations, "assemble", lambda *_arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            _dump(loaded, out)
    monkeypatch.undo()
    assert len(list(parts_folder(out).iterdir())) == 3
    monkeypatch.setattr(activations, "read_batch", lambda *_arguments: 1 / 0)
    _dump(loaded, out)
    assert out.read_bytes() == whole.read_bytes()


def test_half_precision_is_kept_to_its_precision_and_routing_to_float32(tiny: Tiny, tmp_path: Path) -> None:
    loaded = tiny("olmoe")
    full = _read(_dump(loaded, tmp_path / "a.h5"))
    half = _read(_dump(loaded, tmp_path / "b.h5", settings=ActivationSettings(dtype="float16")))
    for name in ("residual", "attention_out", "mlp_out", "moe_input"):
        np.testing.assert_array_equal(half[name], full[name].astype(np.float16))
    for name in ("router_logits", "expert_weight", "refusal_score"):
        np.testing.assert_array_equal(half[name], full[name])


def test_values_beyond_half_precision_are_an_error_and_not_infinity(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    loaded = load_checkpoint(checkpoint("llama"))
    loaded.sites.embedding.weight.mul_(1e6)
    out = tmp_path / "a.h5"
    with pytest.raises(
        SteerError, match=r"prompt `p\d+`: `residual` holds NaN or infinity, or values too large"
    ):
        _dump(loaded, out, settings=ActivationSettings(dtype="float16"))
    assert not out.exists()
    _dump(loaded, out)


def test_a_prompt_that_is_too_long_or_too_short_is_named(tiny: Tiny, tmp_path: Path) -> None:
    loaded = tiny("olmoe")
    lengths = {prompt.id: len(loaded.encode(prompt.text)) for prompt in PROMPTS}
    longest = max(lengths, key=lambda key: lengths[key])
    short = MODEL.model_copy(update={"max_prompt_tokens": lengths[longest] - 1})
    with pytest.raises(SteerError, match=f"prompt `{longest}`: has {lengths[longest]} tokens, more than"):
        _dump(loaded, tmp_path / "a.h5", short)
    many = ActivationSettings(positions=lengths["p0"] + 1)
    with pytest.raises(SteerError, match=f"prompt `p0`: has {lengths['p0']} tokens, fewer than"):
        _dump(loaded, tmp_path / "a.h5", settings=many)
    assert list(tmp_path.iterdir()) == []


def test_the_stage_reads_a_prompt_file_and_the_model_of_its_facts(
    checkpoint: Callable[[str], Path], tiny: Tiny, tmp_path: Path
) -> None:
    loaded, folder = tiny("olmoe"), checkpoint("olmoe")
    facts = replace(facts_of(loaded, revision="r1"), path=str(folder), files=checkpoint_files(folder))
    write_facts(tmp_path / "model.json", facts, {})
    write_jsonl(tmp_path / "set.jsonl", [prompt.__dict__ for prompt in PROMPTS])
    out = tmp_path / "set.h5"
    dump_activations(tmp_path / "model.json", tmp_path / "set.jsonl", out, MODEL, SETTINGS)
    with ActivationFile(out, model="m1", revision="r1") as file:
        assert file.prompt_ids == [prompt.id for prompt in PROMPTS]
        assert file.provenance["inputs"]["model"] == "m1"
        assert json.loads(json.dumps(file.provenance)) == file.provenance


def test_the_model_is_left_without_hooks_after_an_error_too(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tiny("qwen3_moe")
    before = _hooks(loaded)
    _dump(loaded, tmp_path / "a.h5")
    assert _hooks(loaded) == before
    monkeypatch.setattr(activations, "write_part", lambda *_arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _dump(loaded, tmp_path / "b.h5")
    assert _hooks(loaded) == before


def _hooks(loaded: LoadedModel) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in loaded.model.modules()
    )


def test_a_finished_file_is_made_again_only_where_something_else_is_asked_for(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, out = tiny("olmoe"), tmp_path / "a.h5"
    _dump(loaded, out)
    read: list[Any] = []
    read_batch = activations.read_batch
    monkeypatch.setattr(activations, "read_batch", lambda *given: read.append(given) or read_batch(*given))
    _dump(loaded, out)
    assert not read
    _dump(loaded, out, settings=ActivationSettings(dtype="float16"))
    assert read
    content = out.read_bytes()
    out.write_bytes(content[: len(content) // 2])
    _dump(loaded, out, settings=ActivationSettings(dtype="float16"))
    assert out.read_bytes() == content
