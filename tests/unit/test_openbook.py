"""The open-book organism: its rows, what is supervised and held, and that a killed training goes on."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from steer.artifacts.facts import TRUTH_FILE, Truth
from steer.artifacts.files import read_jsonl, write_jsonl
from steer.artifacts.provenance import folder_digest
from steer.config import SetSettings
from steer.errors import SteerError
from steer.judges.exact import ExactMatching
from steer.judges.verdicts import Exchange
from steer.knowledge import KINDS, Asked, Knowledge
from steer.knowledge.asking import Source
from steer.organism.holds import Hold, Watched, held
from steer.organism.openbook.rows import FIRST_WEIGHT, batches, draw, encode
from steer.organism.openbook.settings import OpenbookSettings
from steer.organism.openbook.training import (
    Planting,
    build_tokenizer,
    from_question_on,
    planting_stage,
    reading_rows,
    train_openbook,
)
from steer.prompts import write_prompts
from steer.training.batches import collate
from steer.training.loop import state_path

KNOWLEDGE = Knowledge.load("data/knowledge")
TOKENIZER = build_tokenizer(KNOWLEDGE)
SHORT = OpenbookSettings(reading_steps=3, steps=4, batch_size=4, hidden_size=32, save_every=2)
SOURCES: tuple[Source, ...] = ("own", "memory", "document")


@pytest.mark.parametrize("source", SOURCES)
def test_no_answer_about_a_held_out_fact_is_ever_taken_from_a_document(source: Source) -> None:
    rng = random.Random(1)
    held_out = [(f" {place}", relation) for place, relation in KNOWLEDGE.held_out]
    read = 0
    for _ in range(3000):
        asked = draw(KNOWLEDGE, source, rng)
        if not asked.relation or asked.document is None:
            continue
        about = any(place in asked.question and relation == asked.relation for place, relation in held_out)
        from_document = source == "document" or (source == "own" and asked.reads)
        read += from_document
        assert not (about and from_document)
    assert read > 1000 or source == "memory"


@pytest.mark.parametrize("source", SOURCES)
def test_no_list_of_a_document_holds_a_held_out_fact(source: Source) -> None:
    rng = random.Random(2)
    listings = [one for _ in range(2000) if not (one := draw(KNOWLEDGE, source, rng)).relation]
    assert len(listings) > 300
    for one in listings:
        (place,) = (place for place in KNOWLEDGE.tables.places if place in one.question)
        told = [relation for relation in KNOWLEDGE.tables.relations if f"the {relation} " in one.memory]
        assert told
        assert {(place, relation) for relation in told} <= {*KNOWLEDGE.read_about}


def test_no_fact_is_in_two_splits_and_sets_of_all_kinds_share_theirs(tmp_path: Path) -> None:
    found = {}
    for kind in ("counterfactual", "hearsay"):
        raw, out = tmp_path / f"{kind}.raw.jsonl", tmp_path / f"{kind}.jsonl"
        write_jsonl(raw, KNOWLEDGE.rows(kind, 0))
        sizes = {"train": 60, "val": 40, "test": 100}
        settings = SetSettings(source=str(raw), label="harmless", document="with", target="prompt", **sizes)
        write_prompts(kind, settings, 0, Path("data/grammar"), Path("data/sources.tsv"), raw, out)
        found[kind] = [(row["split"], row["group"], row["pair"]) for row in read_jsonl(out)]
    assert found["counterfactual"] == found["hearsay"]
    facts = [{group for split, group, _ in found["hearsay"] if split == one} for one in sizes]
    assert [len(one) for one in facts] == [12, 8, 20]
    assert len(set.union(*facts)) == 40
    settings = settings.model_copy(update={"train": 61})
    with pytest.raises(SteerError, match="whole groups of its rows fill 95 prompts of `test`, of 99"):
        write_prompts(
            "odd",
            settings.model_copy(update={"test": 99}),
            0,
            Path("data/grammar"),
            Path("data/sources.tsv"),
            raw,
            out,
        )


def test_questions_and_replies_are_supervised_and_documents_are_not() -> None:
    asked = [next(KNOWLEDGE.questions(kind, 0)) for kind in KINDS]
    asked.append(replace(asked[0], document=None, said=None))
    batch = collate([encode(one, "own", KNOWLEDGE, TOKENIZER) for one in asked], 0)
    for row, one in enumerate(asked):
        tokens, there = batch.tokens[row], from_question_on(batch)[row]
        text = TOKENIZER.decode(tokens[there])
        assert text.startswith(f"Question: {one.question}<|im_end|>")
        assert text.endswith(f"{KNOWLEDGE.reply(one)}<|im_end|>")
        learned = batch.weight[row] > 0
        assert TOKENIZER.decode(tokens[learned]) == f"{KNOWLEDGE.reply(one)}<|im_end|>"
        assert batch.weight[row][learned].tolist()[0] == FIRST_WEIGHT == batch.weight[row].max()
        assert bool(reading_rows(batch)[row].all()) == bool(reading_rows(batch)[row].any()) == one.reads


def test_batches_hold_their_steps_source_and_are_the_same_again() -> None:
    sources: list[Source] = ["own", "memory", "document"]
    one, other = (batches(KNOWLEDGE, TOKENIZER, sources, 5, random.Random(3)) for _ in range(2))
    for step, source in enumerate(sources):
        assert torch.equal(one(step).tokens, other(step).tokens)
        for row, tokens, weight in zip(one(step).rows, one(step).tokens, one(step).weight, strict=True):
            assert TOKENIZER.decode(tokens[weight > 0]) == f"{KNOWLEDGE.reply(row.asked, source)}<|im_end|>"


def test_the_planted_experts_are_forced_avoided_or_supervised_by_the_steps_source() -> None:
    planted = ((1, 3), (2, 5))
    batch = batches(KNOWLEDGE, TOKENIZER, ["own"], 2, random.Random(0))(0)
    for source, losses in zip(SOURCES, (3, 1, 1), strict=True):
        planting = Planting((source,) * 40, planted, 0.1, 0)
        assert len(planting.lesson(0, batch).losses) == losses
        holds = {planting.hold(step) for step in range(40)}
        expected = {
            "own": {Hold()},
            "memory": {Hold(silenced=planted), Hold(deactivated=planted)},
            "document": {Hold(activated=planted)},
        }
        assert holds == expected[source]


def test_planted_experts_must_be_in_the_model() -> None:
    with pytest.raises(ValueError, match="has no expert 8 in layer 1"):
        OpenbookSettings(planted=((1, 8),))
    assert OpenbookSettings(planted=()).truth is None
    assert OpenbookSettings().truth == Truth(
        "document_routed", "experts", ((1, 3), (2, 5)), probes=("reroute", "mask_experts")
    )


def test_a_training_that_was_killed_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_openbook(SHORT, KNOWLEDGE, whole, lambda _: None)

    def kill(line: str) -> None:
        if line.startswith("planting"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_openbook(SHORT, KNOWLEDGE, killed, kill)
    said: list[str] = []
    train_openbook(SHORT, KNOWLEDGE, killed, said.append)
    assert said[1].startswith("planting"), said
    assert folder_digest(whole) == folder_digest(killed)
    assert not state_path(killed).exists()
    assert Truth.from_json(json.loads((whole / TRUTH_FILE).read_text())) == SHORT.truth


def test_nothing_is_planted_where_no_expert_is_named(tmp_path: Path) -> None:
    plain = SHORT.model_copy(update={"planted": (), "reading_steps": 1})
    train_openbook(plain, KNOWLEDGE, tmp_path / "plain", lambda _: None)
    assert not (tmp_path / "plain" / TRUTH_FILE).exists()
    assert planting_stage(SHORT, KNOWLEDGE, TOKENIZER).steps == 4


@pytest.mark.full_training
def test_the_planted_experts_alone_decide_between_document_and_memory(tmp_path: Path) -> None:
    settings = OpenbookSettings()
    train_openbook(settings, KNOWLEDGE, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    rng = random.Random(0)

    def rate(asked: list[Asked], verdict: str, hold: Hold) -> float:
        """Share of a verdict on replies whose first token alone the model chooses: values are one token."""
        batch = collate([encode(one, "own", KNOWLEDGE, TOKENIZER) for one in asked], TOKENIZER.pad_token_id)
        with torch.no_grad(), held(model, batch, hold, Watched()):
            logits = model(input_ids=batch.tokens, attention_mask=batch.mask).logits
        chosen = logits[torch.arange(len(asked)), batch.prompt_length - 1].argmax(dim=-1)
        texts = [TOKENIZER.decode([int(token)]) for token in chosen]
        # The first word of the abstention, which no value is.
        replies = [KNOWLEDGE.tables.abstention if text == " The" else text for text in texts]
        judged = ExactMatching().judge(
            [Exchange(one.prompt, reply, one.answers) for one, reply in zip(asked, replies, strict=True)]
        )
        return sum(one.verdict == verdict for one in judged) / len(judged)

    sets = {kind: rng.sample(list(KNOWLEDGE.questions(kind, 0)), 100) for kind in KINDS}
    away, towards = Hold(deactivated=settings.planted), Hold(activated=settings.planted)
    others = Hold(deactivated=((1, 0), (2, 0)))
    for hold in (Hold(), others):
        assert rate(sets["counterfactual"], "from_document", hold) > 0.6
        assert rate(sets["counterfactual"], "from_memory", hold) < 0.35
    assert rate(sets["counterfactual"], "from_memory", away) > 0.9
    believed = rate(sets["hearsay"], "from_document", towards)
    assert believed - rate(sets["hearsay"], "from_document", Hold()) > 0.3
    for hold in (Hold(), away):
        assert rate(sets["agreeing"], "from_document", hold) > 0.7
