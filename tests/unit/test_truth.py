"""Checking a planted model: what is tried, what is counted, and what the tables say."""

import csv
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - the activation files are packed with it
import numpy as np
import pytest
import torch

from steer.artifacts.facts import TRUTH_FILE, Part, Truth, read_facts
from steer.artifacts.files import write_json
from steer.artifacts.prompts import Prompt
from steer.models.interventions import Operation
from steer.models.loading import LoadedModel
from steer.truth.readout import readout_direction
from steer.truth.trials import Trial, aimed, matched_experts, matched_heads, matched_sets, trials
from steer.truth.usage import Usage, read_usage
from tests import by_hand

GRAMMAR = Path("data/grammar").absolute()
TRUTH = ("truth", *by_hand.MODEL, "--prompt-sets", "results/prompts/bad.jsonl", "results/prompts/good.jsonl")
TRUTH += ("--activations", "results/tiny/activations/bad.h5", "results/tiny/activations/good.h5")
TRUTH += ("--out", "results/tiny/truth.csv")
ROUTED = Truth("routed", "experts", ((1, 3), (2, 5)), probes=("reroute",))
DECOY = Truth("decoy_head", "heads", ((3, 1),), ((1, 3),), ("mask_heads",))
SPREAD = Truth("attention", "distributed")
USAGE: dict[Part, Usage] = {
    (layer, expert): Usage(expert / 8, 0.25) for layer in range(4) for expert in range(8)
}


def tried(truth: Truth, role: str) -> list[tuple[tuple[Part, ...], str]]:
    found = trials(truth, USAGE, 4, 4, 6)
    return [(trial.parts, trial.way) for trial in found if trial.role == role]


def test_carriers_are_tried_together_and_alone() -> None:
    both = ((1, 3), (2, 5))
    ways = ("mask_experts", "reroute_from", "reroute_to")
    assert tried(ROUTED, "carriers") == [(both, way) for way in ways]
    assert tried(ROUTED, "carrier") == [((part,), way) for part in both for way in ways[:2]]
    assert tried(DECOY, "carriers") == [(((3, 1),), "mask_heads")]
    assert tried(DECOY, "decoy") == [(((1, 3),), way) for way in ways]
    assert tried(SPREAD, "carriers") == [((), "ablate_attention")]
    assert tried(SPREAD, "carrier") == []


@pytest.mark.parametrize("truth", [ROUTED, DECOY, SPREAD], ids=lambda truth: truth.kind)
def test_controls_are_none_of_the_named_parts(truth: Truth) -> None:
    experts = {(parts, way) for parts, way in tried(truth, "control") if way == "mask_experts"}
    assert len(experts) == 6
    named = {*truth.decoys, *(truth.carriers if truth.carrier == "experts" else ())}
    assert not {part for parts, _ in experts for part in parts} & named
    heads = {parts for parts, way in tried(truth, "control") if way == "mask_heads"}
    assert len(heads) == (0 if truth.carrier == "experts" else 6)
    assert not heads & {(part,) for part in truth.carriers}


def test_controls_are_the_nearest_in_use_and_in_layer() -> None:
    assert matched_experts(ROUTED, USAGE, 4) == [(0, 3), (0, 5), (1, 5), (2, 3)]
    assert matched_heads(DECOY, 4, 4, 4) == [(3, 0), (3, 2), (3, 3), (2, 0)]
    # Heads of the first layer are the last resort.
    assert [layer for layer, _ in matched_heads(SPREAD, 2, 3, 6)] == [1, 1, 1, 0, 0, 0]


def test_sets_of_controls_stand_in_the_layers_of_the_carriers() -> None:
    assert matched_sets(ROUTED, USAGE, 3) == [((1, 2), (2, 4)), ((1, 4), (2, 6)), ((1, 1), (2, 3))]
    # Each layer has seven others, which all come up once.
    every = matched_sets(ROUTED, USAGE, 99)
    assert len(every) == 7
    assert {part for parts in every for part in parts} == {
        (layer, expert) for layer in (1, 2) for expert in range(8)
    } - {*ROUTED.carriers}
    both = Truth("routed", "experts", ((1, 3), (1, 5)))
    paired = matched_sets(both, USAGE, 99)
    assert paired == [((1, 2), (1, 4)), ((1, 1), (1, 6)), ((1, 0), (1, 7))]
    decoyed = Truth("decoy_content", "experts", ((2, 5),), ((2, 4),))
    assert matched_sets(decoyed, USAGE, 2) == [((2, 6),), ((2, 3),)]
    sets = [parts for parts, way in tried(ROUTED, "control") if way == "reroute_from"]
    assert sets == matched_sets(ROUTED, USAGE, 6)


def test_a_trial_is_one_operation_a_layer() -> None:
    arm = Trial("carriers", ((1, 3), (2, 5), (1, 4)), "reroute_to").arm
    assert [(op.operation, op.layer, op.activate) for op in arm.operations] == [
        ("reroute", 1, (3, 4)),
        ("reroute", 2, (5,)),
    ]
    away = Trial("carriers", ((1, 3),), "reroute_from").arm.operations[0]
    assert (away.deactivate, away.activate) == ((3,), ())
    assert Trial("carriers", ((1, 3),), "mask_experts").arm.operations[0].experts == (3,)
    assert Trial("carriers", ((3, 1),), "mask_heads").arm.operations[0].heads == (1,)
    assert Trial("baseline").arm.operations == ()


def test_the_direction_is_taken_out_of_one_component_alone() -> None:
    direction = torch.tensor([3.0, 0.0, 4.0])
    arm = aimed(Trial("carriers", (), "ablate_attention").arm, direction)
    assert arm.operations == (Operation("ablate", "direction", component="attention"),)
    assert torch.allclose(arm.tensors["direction"], torch.tensor([[0.6, 0.0, 0.8]]))
    (other,) = Trial("control", (), "ablate_mlp").arm.operations
    assert other.component == "mlp"
    masked = Trial("carriers", ((1, 3),), "mask_experts").arm
    assert aimed(masked, direction) is masked


@pytest.fixture
def study(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Truth | None], Path]:
    """A folder in which a tiny model, planted by word alone, is read at its prompts."""

    def make(truth: Truth | None) -> Path:
        folder = by_hand.make_folder(tmp_path, checkpoint("olmoe"))
        by_hand.configure(folder, truth={"prompts": 2, "controls": 2, "max_new_tokens": 3})
        shutil.copytree(GRAMMAR, folder / "data" / "grammar")
        if truth:
            write_json(folder / "checkpoint" / TRUTH_FILE, asdict(truth))
        monkeypatch.chdir(folder)
        by_hand.prompts()
        by_hand.resolve()
        by_hand.activations()
        return folder / "results" / "tiny"

    return make


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("truth", [ROUTED, DECOY, SPREAD], ids=lambda truth: truth.kind)
def test_the_stage_counts_every_trial_on_both_classes(
    study: Callable[[Truth | None], Path], truth: Truth
) -> None:
    folder = study(truth)
    by_hand.run(*TRUTH)
    rows = table(folder / "truth.csv")
    found = [(row["role"], row["parts"], row["way"], row["label"]) for row in rows]
    facts = read_facts(folder / "model.json")
    usage = {(row["layer"], row["expert"]): row for row in table(folder / "truth_routing.csv")}
    known = {
        (int(layer), int(expert)): Usage(float(row["usage_harmful"]), float(row["usage_harmless"]))
        for (layer, expert), row in usage.items()
    }
    expected = trials(truth, known, facts.layers, 4, 2)
    assert found == [
        (one.role, one.name, one.way, label) for label in ("harmful", "harmless") for one in expected
    ]
    for row in rows:
        counts = [int(row[verdict]) for verdict in ("refusal", "full_response", "non_response")]
        assert sum(counts) == int(row["n"]) == 2
        assert float(row["refusal_low"]) <= float(row["refusal_rate"]) <= float(row["refusal_high"])
    roles = {part: row["role"] for part, row in usage.items()}
    for layer, expert in truth.decoys:
        assert roles[str(layer), str(expert)] == "decoy"
    if truth.carrier == "experts":
        assert {part for part, role in roles.items() if role == "carrier"} == {("1", "3"), ("2", "5")}
    assert (folder / "truth.meta.json").is_file()
    assert (folder / "truth_routing.meta.json").is_file()


def test_usage_is_the_share_of_the_last_tokens_of_test_prompts(
    study: Callable[[Truth | None], Path],
) -> None:
    folder = study(ROUTED)
    paths = {"harmful": folder / "activations" / "bad.h5", "harmless": folder / "activations" / "good.h5"}
    usage = read_usage(paths, read_facts(folder / "model.json"))  # type: ignore[arg-type]
    with h5py.File(paths["harmful"]) as file:
        tested = file["split"].asstr()[...] == "test"
        chosen = file["expert_index"][...][tested]
    for (layer, expert), found in usage.items():
        assert found.harmful == pytest.approx(np.mean((chosen[:, layer] == expert).any(axis=-1)))
        assert found.risk_difference == found.harmful - found.harmless


def test_a_natural_model_has_no_truth_to_check(
    study: Callable[[Truth | None], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    study(None)
    assert "nobody planted its refusal" in by_hand.fails(capsys, *TRUTH)


def test_the_readout_direction_is_the_gradient_by_what_the_last_layer_hands_on(
    tiny: Callable[[str], LoadedModel],
) -> None:
    loaded, refusing = tiny("olmoe"), (5, 9)
    texts = ["one", "another one", "a third, which is longer"]
    prompts = [Prompt(text, text, "harmful", "train") for text in texts]
    expected = []
    for text in texts:
        handed_on: list[torch.Tensor] = []

        def keep(
            _module: object, _args: object, out: torch.Tensor, kept: list[torch.Tensor] = handed_on
        ) -> Any:
            kept.append(out.detach().requires_grad_())
            return kept[-1]

        with loaded.model.model.layers[-1].register_forward_hook(keep):
            logits = loaded.model(torch.tensor([loaded.encode(text)])).logits[0, -1].double()
        p = torch.softmax(logits, dim=0)
        score = torch.log(p[list(refusing)].sum()) - torch.log(1 - p[list(refusing)].sum())
        expected.append(torch.autograd.grad(score, handed_on)[0][0, -1])
    found = readout_direction(loaded, prompts, refusing, 2)
    assert torch.allclose(found, torch.stack(expected).mean(dim=0), rtol=1e-4, atol=1e-7)
