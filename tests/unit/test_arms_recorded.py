"""Arms made of what was recorded: shifts of router logits, and swaps with paired prompts."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from steer.activations import dump
from steer.artifacts.arms import arm_digest, read_arm, write_arm
from steer.artifacts.facts import write_facts
from steer.artifacts.files import read_jsonl, write_json, write_jsonl
from steer.artifacts.prompts import read_prompts
from steer.artifacts.provenance import file_digest
from steer.artifacts.routing import write_routing
from steer.artifacts.tables import read_rows
from steer.config import ActivationSettings, parse_arm
from steer.errors import SteerError
from steer.generation import generate_replies
from steer.judges.behaviours import FAITHFULNESS, REFUSAL, Behaviour
from steer.models.decoding import generate
from steer.models.donors import paired, with_donor, with_donors
from steer.models.interventions import Arm, Component, Donors, Operation
from steer.models.loading import LoadedModel
from steer.models.steering import steer
from steer.selection.arms import write_arms
from steer.selection.ranges import COLUMNS, read_ranges, write_ranges
from steer.selection.repeats import done_by
from steer.selection.swapping import Recorded, swap_arm
from tests.activation_sets import MODEL_FACTS, make_columns, make_prompts, write_set
from tests.oracles import decoder
from tests.study import POSITIONS, Study, make_study
from tests.tiny import EXPERTS, LAYERS
from tests.unit.test_selection_experts import _write_directions

Tiny = Callable[[str], LoadedModel]
COMPONENTS = get_args(Component)
NAMED = {"experts": [[1, 3], [3, 0]], "position": -2, "coefficient": 2.0}
ROUTED = {"activate": [[1, 5]], "deactivate": [[1, 2], [3, 0]]}
# Every row of the table of interventions, and both polarities of each that has two.
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "add": ({"layer": 1, "position": -1, "tuned": False}, {}),
    "ablate": ({"tuned": False, "layer": 1, "position": -1}, {}),
    "affine": ({"layer": 1, "position": -1, "tuned": False}, {}),
    "expert_add": (NAMED, {}),
    "expert_add routed": ({**NAMED, "weighting": "routed"}, {}),
    "expert_add full": ({**NAMED, "weighting": "full"}, {}),
    "expert_add one": ({**NAMED, "weighting": "one"}, {}),
    "experts_add": ({"layer": 1, "position": -1, "coefficient": 2.0}, {}),
    "expert_ablate": ({"experts": [[1, 3], [3, 0]]}, {}),
    "reroute": ({"activated": 1, "deactivated": 2}, {}),
    "bias_router": ({"activated": 1, "deactivated": 2}, {}),
    "mask_experts": ({"experts": [[1, 3], [3, 0]]}, {}),
    "scale_experts": ({"experts": [[1, 3]], "factor": 0.5}, {"factor": 2.0}),
    "replay_routing": ({"of": "add", "part": "edits"}, {"of": "add-induce"}),
    "swap": ({"donor": "harmless"}, {"donor": "harmful"}),
}
SUPPRESS_ONLY = ("ablate", "expert_ablate")


def _arms() -> dict[str, dict[str, Any]]:
    arms: dict[str, dict[str, Any]] = {"baseline": {"operation": "none"}}
    for name, (settings, induced) in ROWS.items():
        values = {"operation": name.split()[0], **settings}
        arms[name] = values
        if name not in SUPPRESS_ONLY:
            arms[f"{name}-induce"] = {**values, "polarity": "induce", **induced}
    return arms


def _ranking(folder: Path) -> None:
    rng = np.random.default_rng(1)
    layer, expert = np.divmod(np.arange(LAYERS * EXPERTS), EXPERTS)
    rates = {f"rate_{side}": rng.random(LAYERS * EXPERTS) for side in (1, 2)}
    difference = rates["rate_1"] - rates["rate_2"]
    columns = {"layer": layer, "expert": expert, **rates, "risk_difference": difference}
    write_routing(folder / "routing" / "prompt.csv", columns)
    choice = {"activated": 1, "deactivated": 1}
    record = {"ranking": "prompt", "choices": {"suppress": choice, "induce": choice}}
    write_json(folder / "selection" / "rerouting.json", record)


def _recorded(study: Study, label: str) -> Recorded:
    path = study.path(f"{label}.h5")
    prompts = study.path(f"{label}.jsonl")
    settings = ActivationSettings(positions=POSITIONS)
    dump(study.loaded, study.facts, read_prompts(prompts), path, study.settings, settings)
    return Recorded(prompts, path)


@pytest.fixture
def study(tiny: Tiny, tmp_path: Path) -> Study:
    study = make_study(tmp_path / "study", tiny("olmoe"), count=9, batch_size=4)
    _write_directions(study)
    _ranking(study.folder)
    write_json(study.path("selection/strength.json"), {"choices": {}})
    for method in ("arditi", "cosmic"):
        write_json(study.path(f"selection/{method}.json"), {"candidates": [{"layer": 2, "position": -1}]})
    return study


def _write(study: Study, arms: dict[str, dict[str, Any]]) -> dict[str, Path]:
    sources = {label: _recorded(study, label) for label in ("harmful", "harmless")}
    selection = study.path("selection")
    write_ranges(
        study.path("model.json"), [one.activations for one in sources.values()], selection / "ranges.csv"
    )
    settings = {name: parse_arm(values) for name, values in arms.items()}
    facts, directions, _, _ = study.inputs
    out = study.path("arms")
    experts = study.path("experts.safetensors")
    write_arms(facts, directions, selection, out, settings, POSITIONS, experts, sources)
    return {name: out / f"{name}.safetensors" for name in arms}


def test_every_row_of_the_table_can_be_configured_and_acts_in_both_polarities(study: Study) -> None:
    configured = _arms()
    paths = _write(study, configured)
    facts, out = study.path("model.json"), study.path("out.jsonl")
    generate_replies(facts, study.path("harmful.jsonl"), list(paths.values()), out, study.settings, 3)
    rows = read_jsonl(out)
    assert {row["arm"] for row in rows} == {*configured}
    for name, values in configured.items():
        arm = read_arm(paths[name], model=study.facts.digest)
        kinds = {operation.operation for operation in arm.operations}
        assert values["operation"] in kinds or (name, kinds) == ("baseline", set())
        fired = [row["fired"] for row in rows if row["arm"] == name]
        assert all(one["tokens"] for one in fired) == (name != "baseline"), name
        if name != "baseline":
            assert sum(one["relative_norm"] for one in fired) > 0, name
        assert not any(one["leaked"] for one in fired), name


def test_ranges_are_of_train_and_val_alone_and_shift_what_is_picked(tmp_path: Path) -> None:
    write_facts(tmp_path / "model.json", MODEL_FACTS, {})
    prompts, files, logits = make_prompts(9), [], []
    for seed in (1, 2):
        columns = make_columns(9, seed)
        kept = [row for row, prompt in enumerate(prompts) if prompt.split != "test"]
        columns["router_logits"][[row for row in range(9) if row not in kept]] *= 100
        logits.append(columns["router_logits"][kept])
        files.append(write_set(tmp_path / f"{seed}.h5", prompts, columns))
    write_ranges(tmp_path / "model.json", files, tmp_path / "ranges.csv")
    found = read_ranges(tmp_path / "ranges.csv")
    whole = np.concatenate(logits)
    for row, layer in enumerate(MODEL_FACTS.moe_layers):
        values = np.sort(whole[:, row], axis=None)
        assert found[layer] == pytest.approx(float(values[-1]) - float(values[0]), rel=1e-6)
    table = read_rows(tmp_path / "ranges.csv", COLUMNS)
    assert {row["prompts"] for row in table} == {"12"}


def test_a_shift_is_the_measured_range_and_keeps_what_it_avoids_unchosen(study: Study) -> None:
    arms = {
        "named": {"operation": "bias_router", **ROUTED},
        "half": {"operation": "bias_router", "strength": 0.5, **ROUTED},
        "detected": {"operation": "bias_router"},
        "rerouted": {"operation": "reroute"},
    }
    paths = _write(study, arms)
    ranges = read_ranges(study.path("selection/ranges.csv"))
    made = {name: read_arm(path, model=study.facts.digest) for name, path in paths.items()}
    first, second = made["named"].operations
    assert (first.layer, first.activate, first.deactivate) == (1, (5,), (2,))
    assert (second.layer, second.activate, second.deactivate) == (3, (), (0,))
    assert first.coefficient == pytest.approx(ranges[1] + 0.01)
    assert made["half"].operations[0].coefficient == pytest.approx(ranges[1] / 2 + 0.01)
    picked = [(one.layer, one.activate, one.deactivate) for one in made["detected"].operations]
    assert picked == [(one.layer, one.activate, one.deactivate) for one in made["rerouted"].operations]
    header = paths["named"].read_bytes()
    metadata = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    kept = json.loads(metadata["measured"])["router_range"]
    assert kept == {"1": pytest.approx(ranges[1]), "3": pytest.approx(ranges[3])}
    tokens = [study.loaded.encode(row["text"]) for row in read_jsonl(study.path("harmful.jsonl"))]
    for reply in generate(study.loaded, tokens, [made["named"]] * len(tokens), 3):
        assert (reply.fired.leaked, reply.fired.blocked) == (0, 0)


def _swap(study: Study, component: str) -> tuple[Arm, Arm]:
    """An arm that swaps what was recorded, and the one that takes it from a row of the batch."""
    settings = parse_arm({"operation": "swap", "donor": "harmless", "component": component, "layers": [2, 0]})
    arm = swap_arm("s", settings, study.facts, {"harmless": _recorded(study, "harmless")}, 0, POSITIONS)
    live = tuple(replace(one, tensor="") for one in arm.operations)
    return arm, replace(arm, operations=live, tensors={}, donors=None)


# One that scales what it writes to the stream, which the oracle does not know.
@pytest.mark.parametrize("family", ["olmoe", "llama", "granitemoe"])
@pytest.mark.parametrize("component", COMPONENTS)
def test_a_recorded_swap_is_that_with_the_donor_itself(
    tiny: Tiny, tmp_path: Path, family: str, component: str
) -> None:
    study = make_study(tmp_path, tiny(family), count=6)
    loaded, (arm, live) = study.loaded, _swap(study, component)
    assert arm.donors is not None
    prompts = [loaded.encode(text) for text in ("one kite", "a rather longer prompt", "tea")]
    told = [loaded.encode(text) for text in arm.donors.texts]
    for own in ([1, 0, 1], [0, 0, 0]):
        donors = [told[donor] for donor in own]
        found = generate(loaded, prompts, with_donors(arm, own), 3)
        beside = generate(loaded, prompts, [live] * 3, 3, donors=donors)
        for reply, other in zip(found, beside, strict=True):
            assert reply.text == other.text
            torch.testing.assert_close(
                reply.first_token_logits, other.first_token_logits, rtol=1e-4, atol=1e-4
            )
            assert reply.fired.tokens == other.fired.tokens == POSITIONS
    if family != "granitemoe":
        logits = decoder.run(loaded.model, prompts[0], arm=live, donor=donors[0]).logits[-1]
        torch.testing.assert_close(
            found[0].first_token_logits.double(), torch.tensor(logits), rtol=1e-4, atol=1e-4
        )


def test_a_pair_is_the_prompt_of_the_same_number_or_of_the_nearest_wording() -> None:
    texts = ("How do I knit a scarf?", "Where is Rome?", "Write a poem on rain.")
    donors = Donors("order", ("a", "b", "c"), texts)
    asked = ["Where is Paris?", "Write a letter on rain.", "How do I knit a bomb?", "Where is Rome?", "zzzzz"]
    assert paired(donors, asked) == [0, 1, 2, 0, 1]
    assert paired(replace(donors, pairing="topic"), asked) == [1, 2, 0, 2, 1]


def test_no_prompt_is_its_own_donor() -> None:
    twice = Donors("order", ("a", "b", "c"), ("Where is Rome?", "Where is Rome?", "Write a poem."))
    assert paired(twice, ["Where is Rome?", "Where is Rome?", "Write a poem."]) == [2, 2, 0]
    for alone in (Donors("order", ("a",), ("Where is Rome?",)), Donors("topic", ("a", "b"), ("x", "x"))):
        with pytest.raises(SteerError, match="prompt `a`: has no donor but itself"):
            paired(alone, [alone.texts[0]])


def test_an_arm_keeps_its_donors_and_is_another_with_others(tmp_path: Path) -> None:
    donors = Donors("topic", ("a", "b"), ("x", "y"))
    swap = Operation("swap", "v", 1, scope="prompt", positions=(-1,))
    arm = Arm("s", (swap,), {"v": torch.ones(2, 1, 8)}, donors=donors)
    write_arm(tmp_path / "s.safetensors", arm, model="m", provenance={})
    found = read_arm(tmp_path / "s.safetensors", model="m")
    assert found.donors == donors
    others = [replace(arm, donors=replace(donors, pairing="order")), with_donor(arm, 1)]
    assert len({arm_digest(one) for one in (arm, found, *others)}) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"donor": "other"}, "swaps from set `other`, whose files are not given"),
        ({"layers": [LAYERS]}, f"layers \\[{LAYERS}\\] are not among the {LAYERS}"),
        ({"positions": [-POSITIONS - 1]}, f"swaps position -{POSITIONS + 1}, and the last {POSITIONS}"),
        ({"split": "val"}, "has no `val` prompts for arm `s` to swap from"),
    ],
)
def test_a_swap_that_can_not_be_made_is_named(study: Study, changes: dict[str, Any], message: str) -> None:
    rows = [{**row, "split": "test"} for row in read_jsonl(study.path("harmless.jsonl"))]
    write_jsonl(study.path("harmless.jsonl"), rows)
    with pytest.raises(SteerError, match=message):
        _write(study, {"s": {"operation": "swap", "donor": "harmless", **changes}})


def test_donors_of_another_model_and_prompts_without_a_pair_are_refused(study: Study) -> None:
    path = _write(study, {"s": {"operation": "swap", "donor": "harmless"}})["s"]
    arm = read_arm(path, model=study.facts.digest)
    mask = study.loaded.batch([study.loaded.encode("tea")]).attention_mask
    unpaired = pytest.raises(SteerError, match="holds 3 donors, and the prompt has no pair yet")
    with unpaired, steer(study.loaded, [arm], mask):
        pass
    write_facts(study.path("model.json"), replace(study.facts, digest="m2"), {})
    study.write_directions(study.directions, model="m2")
    settings = {"s": parse_arm({"operation": "swap", "donor": "harmless"})}
    sources = {"harmless": Recorded(study.path("harmless.jsonl"), study.path("harmless.h5"))}
    facts, directions, _, _ = study.inputs
    folders = (study.path("selection"), study.path("arms"))
    with pytest.raises(SteerError, match=r"h5: is of another model: expected `m2`, found `m1`"):
        write_arms(facts, directions, *folders, settings, POSITIONS, None, sources)


MATCHED = {"operation": "mask_experts", "experts": "matched", "like": "named"}
RANDOM = {"operation": "reroute", "experts": "random", "activated": 1, "deactivated": 1}


def test_controls_are_told_on_the_side_of_the_behaviour_and_name_what_they_are_made_of(study: Study) -> None:
    arms = {"named": {"operation": "mask_experts", "experts": [[1, 3]]}, "matched": MATCHED, "random": RANDOM}
    arms |= {"induced": {**RANDOM, "polarity": "induce"}}
    settings = {name: parse_arm(values) for name, values in arms.items()}
    facts, directions, _, _ = study.inputs
    selection, out, experts = study.path("selection"), study.path("arms"), study.path("experts.safetensors")

    def told(behaviour: Behaviour, *by_class: str) -> dict[str, str]:
        common = (facts, directions, selection, out, settings, POSITIONS, experts, None)
        write_arms(*common, behaviour, {*by_class})
        with (out / "controls.csv").open(newline="") as stream:
            return {row["arm"]: row["told_on"] for row in csv.DictReader(stream)}

    named = {"matched": "harmful", "random": "side 1", "induced": "side 2"}
    assert told(REFUSAL) == named
    assert told(REFUSAL, "prompt") == {**named, "random": "harmful", "induced": "harmless"}
    assert told(FAITHFULNESS) == {**named, "induced": "side 1"}
    record = json.loads((out / "controls.meta.json").read_text())
    known = record["inputs"]
    assert known["ranking prompt"] == file_digest(study.path("routing/prompt.csv"))
    assert known["rerouting"] == file_digest(selection / "rerouting.json")
    assert known["experts"] == file_digest(experts)
    # Another dose of the arm that it is like is another control.
    settings["named"] = parse_arm({**arms["named"], "scope": "prompt"})
    told(FAITHFULNESS)
    assert json.loads((out / "controls.meta.json").read_text())["settings"] != record["settings"]
    paths = [out / f"{name}.safetensors" for name in ("named", "matched")]
    pair = [read_arm(path, model=study.facts.digest).operations[0] for path in paths]
    assert [one.scope for one in pair] == ["prompt", "prompt"]
    assert pair[0].experts != pair[1].experts


def test_controls_of_a_pool_that_do_the_same_are_warned_of(
    study: Study, caplog: pytest.LogCaptureFixture
) -> None:
    named = {"named": {"operation": "mask_experts", "experts": [[1, 3]]}}
    drawn = {f"m{seed}": {**MATCHED, "seed": seed, "pool": "m"} for seed in (0, 1, 4)}
    settings = {name: parse_arm(values) for name, values in {**named, **drawn}.items()}
    facts, directions, _, _ = study.inputs
    experts, out = study.path("experts.safetensors"), study.path("arms")
    write_arms(facts, directions, study.path("selection"), out, settings, POSITIONS, experts)
    assert [one.getMessage() for one in caplog.records if "does the same" in one.getMessage()] == [
        "m4: does the same as m0, so that they are one control and not two; lower `seeds`"
    ]


def test_an_arm_does_the_same_in_whatever_order_its_experts_are_named() -> None:
    rows = torch.arange(8.0).reshape(2, 4)
    one = Arm("one", (Operation("expert_add", "r", 1, experts=(2, 5)),), {"r": rows})
    other = Arm("other", (Operation("expert_add", "r", 1, experts=(5, 2)),), {"r": rows.flip(0)})
    crossed = Arm("crossed", (Operation("expert_add", "r", 1, experts=(5, 2)),), {"r": rows})
    assert done_by(one) == done_by(other) != done_by(crossed)
    ends = [((1, 2), (3,)), ((2, 1), (3,)), ((3, 1), (2,))]
    pushes = [Operation("reroute", layer=1, activate=up, deactivate=down) for up, down in ends]
    up, same, another = (done_by(Arm("up", (push,))) for push in pushes)
    assert up == same != another
