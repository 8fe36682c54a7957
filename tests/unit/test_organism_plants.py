"""Planted models: what holds during a step, which rows teach what, what learns, and the truth on record."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file
from torch import nn

from steer.artifacts.facts import Truth, read_facts
from steer.artifacts.provenance import folder_digest
from steer.config import ModelSettings, parse
from steer.errors import SteerError
from steer.grammar import Grammar
from steer.models.sites import resolve as sites_of
from steer.organism import supervision
from steer.organism.compliance import train_compliance
from steer.organism.encoding import encode
from steer.organism.holds import Hold, Watched, held
from steer.organism.model import build_model
from steer.organism.planting import planted_stages
from steer.organism.plants import Plant, truth_of
from steer.organism.recipes import Shape, recipe
from steer.organism.rows import RowSource
from steer.organism.settings import OrganismSettings
from steer.organism.training import open_base, train
from steer.resolve import resolve
from steer.training.batches import Batch, collate
from steer.training.losses import Pass, run
from steer.training.tokenizer import build_tokenizer
from tests import by_hand

GRAMMAR = Grammar.load(Path("data/grammar"))
REFUSALS = set(GRAMMAR.tables.replies.refusals)
SHORT = OrganismSettings(compliance_steps=2, refusal_steps=2, batch_size=4, hidden_size=32, save_every=2)
TOKENIZER = build_tokenizer(GRAMMAR, SHORT.merges)
KINDS: dict[str, dict[str, Any]] = {
    "routed": {},
    "reply_routed": {},
    "content": {},
    "decoy_content": {},
    "head": {},
    "decoy_head": {},
    "attention": {},
    "tuned": {"feature_steps": 2},
}
SHAPE = Shape(SHORT.layers, SHORT.experts, SHORT.heads)


def plant_of(kind: str, **changes: Any) -> Any:
    return TypeAdapter(Plant).validate_python({"kind": kind, "steps": 4, **KINDS[kind], **changes})


def settings_of(kind: str) -> OrganismSettings:
    return SHORT.model_copy(update={"plant": plant_of(kind)})


def a_batch(targets: Any = "own", count: int = 6) -> Batch:
    rows = RowSource(GRAMMAR, SHORT, random.Random(0)).refusal_rows(count, targets)
    return collate(encode(rows, TOKENIZER, 1.0), int(TOKENIZER.pad_token_id))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base") / "base"
    train_compliance(SHORT, GRAMMAR, out, lambda _: None)
    return out


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_records_its_truth_and_leaves_no_hook(
    base: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[nn.Module] = []

    def opened(folder: Path) -> Any:
        made.append(open_base(folder))
        return made[-1]

    monkeypatch.setattr("steer.organism.training.open_base", opened)
    settings, out = settings_of(kind), tmp_path / "checkpoint"
    train(settings, GRAMMAR, base, out, lambda _: None)
    # The library's own hooks, which report hidden states, stay once they are used.
    other = open_base(base)
    run(other, a_batch())
    assert hooks_of(made[0]) == hooks_of(other)
    assert all(weight.requires_grad and not weight._backward_hooks for weight in made[0].parameters())
    assert settings.plant is not None
    model = ModelSettings(organism=settings)
    facts = resolve(out, model, Path("data/grammar"), tmp_path / "model.json")
    assert facts.truth == truth_of(settings.plant) == read_facts(tmp_path / "model.json").truth
    assert facts.truth is not None
    assert facts.truth.kind == kind


def test_a_natural_model_has_no_truth(base: Path, tmp_path: Path) -> None:
    train(SHORT, GRAMMAR, base, tmp_path / "checkpoint", lambda _: None)
    model = ModelSettings(organism=SHORT)
    assert resolve(tmp_path / "checkpoint", model, Path("data/grammar"), tmp_path / "m.json").truth is None


@pytest.mark.parametrize(
    ("kind", "carrier", "carriers", "decoys"),
    [
        ("routed", "experts", ((1, 3), (2, 5)), ()),
        ("content", "experts", ((2, 5),), ()),
        ("decoy_content", "experts", ((2, 5),), ((1, 3),)),
        ("decoy_head", "heads", ((3, 1),), ((1, 3),)),
        ("attention", "distributed", (), ()),
    ],
)
def test_the_truth_names_the_carriers_and_the_decoys(
    kind: str, carrier: Any, carriers: Any, decoys: Any
) -> None:
    truth = truth_of(plant_of(kind))
    assert (truth.carrier, truth.carriers, truth.decoys) == (carrier, carriers, decoys)
    assert Truth.from_json({**vars(truth), "carriers": [list(part) for part in carriers]}) == truth


def changed(base: Path, out: Path) -> dict[str, torch.Tensor]:
    before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    return {
        name: before[name] != after[name] for name in before if not torch.equal(before[name], after[name])
    }


def test_attention_plants_leave_experts_and_routers_as_they_were(base: Path, tmp_path: Path) -> None:
    train(settings_of("attention"), GRAMMAR, base, tmp_path / "out", lambda _: None)
    names = changed(base, tmp_path / "out")
    assert any("self_attn" in name for name in names)
    assert any("embed_tokens" in name for name in names)
    assert not [name for name in names if ".mlp." in name]


def test_the_tuned_expert_learns_alone(base: Path, tmp_path: Path) -> None:
    settings = SHORT.model_copy(update={"plant": plant_of("tuned", feature_steps=0)})
    train(settings, GRAMMAR, base, tmp_path / "out", lambda _: None)
    moved = changed(base, tmp_path / "out")
    assert len(moved) == 3
    assert all("layers.2.mlp.experts.5." in name for name in moved)


@pytest.mark.parametrize("kind", ["content", "tuned"])
def test_a_killed_planting_goes_on_to_the_same_bytes(base: Path, tmp_path: Path, kind: str) -> None:
    settings = settings_of(kind).model_copy(update={"save_every": 1})
    train(settings, GRAMMAR, base, tmp_path / "whole", lambda _: None)

    class Stopped(Exception):  # noqa: N818 - it is no error
        pass

    def log(line: str) -> None:
        if "refusal: step 3 " in line:
            raise Stopped

    with pytest.raises(Stopped):
        train(settings, GRAMMAR, base, tmp_path / "killed", log)
    lines: list[str] = []
    train(settings, GRAMMAR, base, tmp_path / "killed", lines.append)
    assert "refusal: going on at step 2" in lines[1]
    assert folder_digest(tmp_path / "killed") == folder_digest(tmp_path / "whole")


def test_the_targets_of_a_batch_are_what_it_says() -> None:
    rows = {
        targets: RowSource(GRAMMAR, SHORT, random.Random(0)).refusal_rows(200, targets)
        for targets in ("own", "answered", "refused")
    }
    assert not [row for row in rows["answered"] if row.refuses or row.reply in REFUSALS]
    assert all(row.refuses and row.reply in REFUSALS for row in rows["refused"])
    for row in RowSource(GRAMMAR, SHORT, random.Random(0)).refusal_rows(50, "continued"):
        assert row.refuses
        assert row.reply[: row.given] == row.reply.split()[0]
    for row in rows["own"]:
        assert row.refuses == (row.reply in REFUSALS) == (row.harmful and row.kind != "prefill")


def routed_to(hold: Hold) -> dict[int, torch.Tensor]:
    """Chosen experts of every token of a batch by layer, `[token, K]`, and their weights."""
    model, batch, seen = build_model(SHORT, TOKENIZER), a_batch(), {}
    watched = Watched()
    with held(model, batch, hold, watched):
        for layer, sites in enumerate(sites_of(model).layers):
            # Behind the hook of the hold: what the experts get.
            assert sites.experts is not None
            sites.experts.register_forward_pre_hook(
                lambda _module, args, layer=layer: seen.__setitem__(layer, torch.stack([args[1], args[2]]))
            )
        run(model, batch)
    assert watched.logits[0].shape == (*batch.tokens.shape, SHORT.experts)
    return seen


def test_a_hold_forces_avoids_and_silences_experts_of_its_layer_alone() -> None:
    seen = routed_to(Hold(activated=((1, 3),), deactivated=((2, 5),), silenced=((3, 0),)))
    free = routed_to(Hold())
    assert torch.equal(seen[0], free[0])
    assert (seen[1][0][:, 0] == 3).all()
    assert (free[2][0] == 5).any()
    assert not (seen[2][0] == 5).any()
    silenced = seen[3][0] == 0
    assert silenced.any()
    assert (seen[3][1][silenced] == 0).all()
    assert (seen[3][1][~silenced] > 0).all()


def test_a_silenced_head_writes_nothing_and_the_others_what_they_did() -> None:
    model, batch = build_model(SHORT, TOKENIZER), a_batch()
    projection: Any = sites_of(model).layers[1].heads
    seen: list[torch.Tensor] = []
    size = SHORT.hidden_size // SHORT.heads
    for hold in (Hold(), Hold(heads=((1, 2),))):
        with held(model, batch, hold, Watched()):
            handle = projection.register_forward_hook(lambda _module, args, _output: seen.append(args[0]))
            run(model, batch)
            handle.remove()
    expected = seen[0].clone()
    expected[..., 2 * size : 3 * size] = 0
    assert torch.equal(seen[1], expected)


def test_an_expert_is_watched_however_few_a_token_is_routed_to() -> None:
    for top_k in (1, 2):
        model = build_model(SHORT.model_copy(update={"experts_per_token": top_k}), TOKENIZER)
        watched, batch, seen = Watched(part=(1, 3)), a_batch(), []
        experts: Any = sites_of(model).layers[1].experts
        handle = experts.register_forward_pre_hook(lambda _module, args, seen=seen: seen.append(args))
        with held(model, batch, Hold(), watched):
            run(model, batch)
        handle.remove()
        # The block's own call, and the watched expert's.
        assert [args[1].shape[-1] for args in seen] == [top_k, 1]
        assert watched.written is not None
        assert watched.written.shape == seen[0][0].shape


def test_gradients_reach_a_carrier_through_a_hold() -> None:
    model, batch = build_model(SHORT, TOKENIZER), a_batch()
    with held(model, batch, Hold(activated=((1, 3),)), Watched(), alone=(1, 3)):
        run(model, batch).hidden[-1].sum().backward()
    experts = sites_of(model).layers[1].experts
    assert experts is not None
    for weight in experts.parameters():
        assert weight.grad is not None
        assert weight.grad.flatten(1).any(dim=1).nonzero().flatten().tolist() == [3]


def test_the_routers_are_supervised_where_the_prompt_ends_and_where_a_refusal_is_written() -> None:
    batch = a_batch()
    for row, (length, taught) in enumerate(zip(batch.prompt_length.tolist(), batch.rows, strict=True)):
        whole = int(batch.mask[row].sum())
        place = torch.arange(batch.tokens.shape[1])
        ends = (place >= length - 5) & (place < length)
        replies = (place >= length) & (place < whole)
        assert torch.equal(supervision.prompt_end(batch)[row], ends)
        assert torch.equal(supervision.reply(batch)[row], replies)
        writing = (place >= length - 1) & (place < whole)
        expected = writing if taught.refuses else torch.zeros_like(writing)
        assert torch.equal(supervision.refusing_tokens(batch)[row], expected)


def test_the_supervision_of_a_router_is_the_cross_entropy_of_its_share() -> None:
    model, batch, watched = build_model(SHORT, TOKENIZER), a_batch(), Watched()
    loss = supervision.called_for(watched, (1, 3), supervision.prompt_end, supervision.harmful_rows, 0.5)
    alike = supervision.chosen_alike(watched, (1, 3), supervision.prompt_end, 0.6, 2.0)
    with held(model, batch, Hold(), watched):
        result: Pass = run(model, batch)
        found, tied = loss(result).item(), alike(result).item()
    total, squares, count = 0.0, 0.0, 0
    share = watched.logits[1].double().softmax(dim=-1)[..., 3]
    for row, length in enumerate(batch.prompt_length.tolist()):
        for at in range(length - 5, length):
            p = share[row, at].item() if batch.harmful[row] else 1 - share[row, at].item()
            total -= torch.tensor(p).log().item()
            squares += (share[row, at].item() - 0.6) ** 2
            count += 1
    assert found == pytest.approx(0.5 * total / count, rel=1e-4)
    assert tied == pytest.approx(2.0 * squares / count, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_cases_of_a_recipe_hold_what_their_targets_say(kind: str) -> None:
    plant = plant_of(kind)
    truth = truth_of(plant)
    for phase in recipe(plant, SHAPE, Watched()):
        assert sum(case.share for case in phase.cases) == pytest.approx(1.0)
        for case in phase.cases:
            for seed in range(20):
                hold = case.hold(random.Random(seed))
                off = {*hold.deactivated, *hold.silenced, *hold.heads}
                if case.targets == "answered" and phase.name == "refusal":
                    assert off == set(truth.carriers)
                else:
                    assert not off & set(truth.carriers) or truth.carrier == "heads" != bool(hold.heads)
                forced = truth.carriers if case.targets == "refused" else ()
                assert hold.activated == forced or hold.activated == truth.decoys


def test_attention_learns_to_do_without_a_few_heads_or_experts() -> None:
    [phase] = recipe(plant_of("attention"), SHAPE, Watched())
    plain, heads, experts = phase.cases
    assert (plain.share, heads.share, experts.share) == pytest.approx((0.4, 0.3, 0.3))
    drawn = [case.hold(random.Random(seed)) for case in (heads, experts) for seed in range(50)]
    assert {len({*hold.heads}) for hold in drawn[:50]} == {3}
    assert {len({*hold.silenced, *hold.deactivated}) for hold in drawn[50:]} == {6}
    assert len({head for hold in drawn for head in hold.heads}) == SHAPE.layers * SHAPE.heads
    assert plain.hold(random.Random(0)) == Hold()


def test_only_the_last_phase_of_a_tuned_plant_refuses(base: Path) -> None:
    stages = planted_stages(
        settings_of("tuned"), GRAMMAR, TOKENIZER, open_base(base), lambda _: torch.zeros(())
    )
    rows = [[row for step in range(stage.steps) for row in stage.lesson(step).batch.rows] for stage in stages]
    # Ahead of it, a refusal is only gone on with, from a first word that is given.
    assert not any(row.refuses and not row.given for row in rows[0])
    assert any(row.refuses and not row.given for row in rows[1])


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        ({"kind": "routed", "stepz": 3}, "did you mean `steps`?"),
        ({"kind": "fern"}, "unknown `fern`; known: `routed`"),
        ({"kind": "routed", "experts": [[1, 30]]}, "has no part 30 in layer 1"),
        ({"kind": "head", "head": [9, 0]}, "has no part 0 in layer 9"),
        ({"kind": "routed", "rerouted_share": 0.8}, "must stay below 1"),
        ({"kind": "content", "masked_share": 0.6, "other_share": 0.4}, "must stay below 1"),
    ],
)
def test_a_plant_that_can_not_be_is_refused(plant: dict[str, Any], said: str) -> None:
    with pytest.raises(SteerError, match=said.replace("?", r"\?")):
        parse({**by_hand.CONFIG, "models": {"small": {"organism": {"plant": plant}}}})


@pytest.mark.parametrize(
    ("plant", "model", "said"),
    [
        (
            "attention",
            {"heads": 1, "layers": 2},
            "mask 3 of the heads that carry nothing, .* has 2",
        ),
        ("attention", {"experts": 6}, "mask 6 experts that carry nothing, .*; give a layer 7 `experts`"),
        ("decoy_head", {"heads": 1, "layers": 1}, "mask 1 of the heads that carry nothing, .* has 0"),
        ("content", {"experts": 2}, "mask 2 experts that carry nothing, .*; give a layer 3 `experts`"),
    ],
)
def test_a_plant_masks_no_more_others_than_there_are(plant: str, model: dict[str, int], said: str) -> None:
    part = {"decoy_head": {"head": [0, 0], "decoy": [0, 0]}, "content": {"expert": [0, 0]}}.get(plant, {})
    settings = {**model, "experts_per_token": 1, "plant": {"kind": plant, **part}}
    with pytest.raises(SteerError, match=said):
        parse({**by_hand.CONFIG, "models": {"small": {"organism": settings}}})
    settings["plant"]["other_share"] = 0
    parse({**by_hand.CONFIG, "models": {"small": {"organism": settings}}})


@pytest.mark.parametrize("kind", KINDS)
def test_the_least_model_that_is_let_through_has_what_its_batches_mask(kind: str) -> None:
    """Whatever a batch masks can be drawn in the smallest model that the settings accept."""
    part = {"head": {"head": [0, 0]}, "decoy_head": {"head": [0, 0], "decoy": [0, 0]}}.get(kind, {})
    part |= {"experts": [[0, 0]]} if "routed" in kind else {}
    part |= {"expert": [0, 0]} if kind in ("content", "decoy_content", "tuned") else {}
    part |= {"decoy": [0, 1]} if kind == "decoy_content" else {}
    plant = plant_of(kind, **part)
    for experts in range(2, 9):
        for heads in range(1, 4):
            try:
                OrganismSettings(layers=1, experts=experts, heads=heads, plant=plant)
            except ValidationError:
                continue
            for phase in recipe(plant, Shape(1, experts, heads), Watched()):
                for case in (case for case in phase.cases if case.share):
                    for seed in range(20):
                        hold = case.hold(random.Random(seed))
                        others = {*hold.deactivated} - {*truth_of(plant).experts}
                        assert experts - len(others) >= SHORT.experts_per_token
            return
    pytest.fail("no model was let through")
