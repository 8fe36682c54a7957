import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from steer.activations import dump
from steer.artifacts.activations import ActivationFile
from steer.artifacts.facts import write_facts
from steer.artifacts.files import write_jsonl
from steer.artifacts.prompts import Prompt, read_prompts
from steer.artifacts.routing import COLUMNS, CONTRACT_COLUMNS, read_routing, write_routing
from steer.config import ActivationSettings, ModelSettings, RoutingContrast, RoutingSettings, SetSettings
from steer.errors import SteerError
from steer.models.loading import LoadedModel
from steer.prompts import write_prompts
from steer.routing.contrast import write_contrast
from steer.routing.counts import Side, aligned
from tests.activation_sets import MODEL_FACTS, facts_of, make_columns, make_prompts, write_set
from tests.oracles import routing as oracle
from tests.tiny import EXPERTS, MOE_FAMILIES, TOP_K

Tiny = Callable[[str], LoadedModel]
SETTINGS = RoutingSettings(resamples=100)
CONTRAST = RoutingContrast(first="harmful", second="harmless")
GRAMMAR = Path("data/grammar")
MODEL = ModelSettings(path="unused", batch_size=4)


def _sets(folder: Path, sizes: tuple[int, int] = (12, 9)) -> tuple[list[list[Prompt]], list[Path]]:
    sets = [make_prompts(size, prefix) for size, prefix in zip(sizes, "ab", strict=True)]
    paths = [folder / "one.jsonl", folder / "two.jsonl"]
    for path, prompts in zip(paths, sets, strict=True):
        write_jsonl(path, [asdict(prompt) for prompt in prompts])
    return sets, paths


def _facts(folder: Path) -> Path:
    """`model.json` of the checkpoint that every file here is said to be of."""
    facts = replace(MODEL_FACTS, moe_layers=(0, 2))
    write_facts(folder / "model.json", facts, {})
    return folder / "model.json"


def _write(folder: Path, files: list[Path], prompts: list[Path]) -> Path:
    out = folder / "prompt.csv"
    write_contrast(CONTRAST, _facts(folder), files, prompts, out, SETTINGS, 0)
    return out


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_counts_are_those_of_the_routers_own_logits_on_the_last_prompt_tokens(
    tiny: Tiny, family: str, tmp_path: Path
) -> None:
    loaded = tiny(family)
    sets, paths = _sets(tmp_path)
    files = [tmp_path / "one.h5", tmp_path / "two.h5"]
    for prompts, path in zip(sets, files, strict=True):
        dump(loaded, facts_of(loaded), prompts, path, MODEL, ActivationSettings())
    found = read_routing(_write(tmp_path, files, paths))
    assert len(found["layer"]) == len(loaded.sites.moe_layers) * EXPERTS
    for number, path in enumerate(files, 1):
        with ActivationFile(path) as file:
            rows = file.rows(split="train")
            logits = np.concatenate([*file.blocks("router_logits", rows)])
        for at, (layer, expert) in enumerate(zip(found["layer"], found["expert"], strict=True)):
            block = logits[:, loaded.sites.moe_layers.index(layer)]
            counted = [oracle.counts(prompt.tolist(), expert, TOP_K) for prompt in block]
            assert found[f"count_{number}"][at] == sum(count for count, _ in counted)
            assert found[f"total_{number}"][at] == 5 * len(rows)
            assert found[f"prompts_{number}"][at] == len(rows)
            share = sum(first for _, first in counted) / (5 * len(rows))
            assert found[f"top1_rate_{number}"][at] == pytest.approx(share)


def _synthetic(folder: Path, **changes: object) -> tuple[list[Path], list[Path]]:
    sets, paths = _sets(folder)
    files = [folder / "one.h5", folder / "two.h5"]
    for number, (prompts, path) in enumerate(zip(sets, files, strict=True)):
        write_set(path, prompts, make_columns(len(prompts), number), **changes)
    return files, paths


def test_the_table_has_the_contracts_columns_first_and_a_record_beside_it(tmp_path: Path) -> None:
    files, paths = _synthetic(tmp_path)
    out = _write(tmp_path, files, paths)
    header = out.read_text().splitlines()[0].split(",")
    assert tuple(header) == COLUMNS
    assert tuple(header[: len(CONTRACT_COLUMNS)]) == CONTRACT_COLUMNS
    record = json.loads(out.with_suffix(".json").read_text())
    assert [part["tokens"] for part in record["sides"]] == [4 * 5, 3 * 5]
    assert [part["set"] for part in record["sides"]] == ["harmful", "harmless"]
    assert record["provenance"]["seed"] == 0
    first = out.read_bytes()
    assert _write(tmp_path, files, paths).read_bytes() == first


def test_a_side_without_training_prompts_is_an_error(tmp_path: Path) -> None:
    prompts = [replace(prompt, split="test") for prompt in make_prompts(6, "b")]
    sets, paths = _sets(tmp_path)
    write_jsonl(paths[1], [asdict(prompt) for prompt in prompts])
    files = [
        write_set(tmp_path / "one.h5", sets[0], make_columns(12)),
        write_set(tmp_path / "two.h5", prompts, make_columns(6)),
    ]
    with pytest.raises(SteerError, match=r"set `harmless`: has no prompts in the split `train`, so one side"):
        _write(tmp_path, files, paths)


def test_a_model_without_experts_is_an_error(tmp_path: Path) -> None:
    sets, paths = _sets(tmp_path)
    files = [
        write_set(tmp_path / f"{number}.h5", prompts, make_columns(len(prompts), dense=True), moe_layers=())
        for number, prompts in enumerate(sets)
    ]
    with pytest.raises(SteerError, match="without MoE layers"):
        _write(tmp_path, files, paths)


def test_files_of_other_models_or_prompts_are_errors(tmp_path: Path) -> None:
    files, paths = _synthetic(tmp_path)
    with pytest.raises(SteerError, match="of other prompts"):
        _write(tmp_path, files, [paths[1], paths[0]])
    sets, _ = _sets(tmp_path)
    write_set(files[1], sets[1], make_columns(9), model="m2")
    with pytest.raises(SteerError, match="is of another model: expected `m1`, found `m2`"):
        _write(tmp_path, files, paths)


def test_a_table_that_lacks_a_column_or_is_missing_is_an_error(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    with pytest.raises(SteerError, match="no such file"):
        read_routing(table)
    table.write_text("layer,expert\n0,0\n")
    with pytest.raises(SteerError, match="is no routing table: it lacks column"):
        read_routing(table)
    with pytest.raises(ValueError, match="columns"):
        write_routing(table, {"layer": np.zeros(1)})
    write_routing(table, {name: np.array([1.0]) for name in ("layer", "expert", "risk_difference")})
    found = read_routing(table)
    assert found["layer"].tolist() == [1]
    assert np.isnan(found["p_value"]).all()


def _side(pairs: list[str], name: str = "a", shift: int = 0) -> Side:
    prompts = tuple(
        Prompt(f"{name}{n}", "x", "harmful", "train", pair=pair, target="t") for n, pair in enumerate(pairs)
    )
    counts = np.arange(len(pairs))[:, None] + np.full((1, 3), shift)
    return Side(name, prompts, counts, counts, np.full(len(pairs), 20 + shift))


def test_the_second_side_of_pairs_is_put_into_the_order_of_the_first() -> None:
    found = aligned(_side(["x", "y", "z"]), _side(["z", "x", "y"], "b", 5))
    assert [prompt.id for prompt in found.prompts] == ["b1", "b2", "b0"]
    assert found.chosen[:, 0].tolist() == found.strongest[:, 1].tolist() == [6, 7, 5]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (["x", "y"], ["x"], "pair `y`: has no training prompt in set `b`"),
        (["x"], ["x", "y"], "pair `y`: has no training prompt in set `a`"),
        (["x", "x"], ["x"], "set `a`, prompt `a1`: has the pair `x` of another prompt"),
        (["x"], [""], "set `b`, prompt `b0`: has no pair"),
    ],
)
def test_pairs_that_do_not_match_are_errors(first: list[str], second: list[str], message: str) -> None:
    with pytest.raises(SteerError, match=message):
        aligned(_side(first), _side(second, "b"))


def test_pairs_out_of_the_grammar_make_a_paired_table_over_the_reply_tokens(
    tiny: Tiny, tmp_path: Path
) -> None:
    loaded = tiny("olmoe")
    files, paths = [], []
    for name, target in (("refusing", "refusal"), ("complying", "compliance")):
        sized = SetSettings(source="grammar", label="harmful", target=target, train=6)
        paths.append(tmp_path / f"{name}.jsonl")
        write_prompts(name, sized, 0, GRAMMAR, Path("unused"), None, paths[-1])
        files.append(tmp_path / f"{name}.h5")
        dump(loaded, facts_of(loaded), read_prompts(paths[-1]), files[-1], MODEL, ActivationSettings())
    contrast = RoutingContrast(first="refusing", second="complying", paired=True)
    out = tmp_path / "response.csv"
    write_contrast(contrast, _facts(tmp_path), files, paths, out, SETTINGS, 0)
    found = read_routing(out)
    replies = [[prompt.target for prompt in read_prompts(path)] for path in paths]
    lengths = [
        sum(len(loaded.tokenizer.encode(text, add_special_tokens=False)) for text in r) for r in replies
    ]
    assert [found["total_1"][0], found["total_2"][0]] == lengths
    assert (found["prompts_1"] == 6).all()
    # Without its pairs a contrast of reply tokens and prompt tokens is no contrast.
    write_set(tmp_path / "bare.h5", make_prompts(6), make_columns(6))
    write_jsonl(tmp_path / "bare.jsonl", [asdict(prompt) for prompt in make_prompts(6)])
    unlike = RoutingContrast(first="refusing", second="bare")
    with pytest.raises(SteerError, match=r"is of span `last-5-prompt-tokens`, but .* of `target`"):
        write_contrast(
            unlike,
            _facts(tmp_path),
            [files[0], tmp_path / "bare.h5"],
            [paths[0], tmp_path / "bare.jsonl"],
            out,
            SETTINGS,
            0,
        )
