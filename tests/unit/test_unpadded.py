"""Training passes without padding: the same states, losses and gradients as rows by themselves give."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from transformers import PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from steer.grammar import Grammar
from steer.organism.compliance import compliance_stage
from steer.organism.encoding import encode
from steer.organism.holds import Hold, Watched, held
from steer.organism.losses import anchor_loss
from steer.organism.model import build_model
from steer.organism.planting import planted_stages
from steer.organism.plants import Plant
from steer.organism.rows import RowSource
from steer.organism.settings import OrganismSettings
from steer.organism.supervision import silent
from steer.organism.training import refusal_stage
from steer.training.batches import Batch, collate
from steer.training.losses import next_token_loss, run
from steer.training.stages import Lesson, Stage
from steer.training.tokenizer import build_tokenizer
from steer.training.unpadded import unpadded_hidden

GRAMMAR = Grammar.load(Path("data/grammar"))
SHORT = OrganismSettings(batch_size=5, hidden_size=32)
TOKENIZER = build_tokenizer(GRAMMAR, SHORT.merges)
PAD = int(TOKENIZER.pad_token_id)
KINDS = ("routed", "reply_routed", "content", "decoy_content", "head", "decoy_head", "attention")


def a_batch(count: int = 5) -> Batch:
    rows = RowSource(GRAMMAR, SHORT, random.Random(0)).refusal_rows(count)
    return collate(encode(rows, TOKENIZER, 3.0), PAD, unpadded=True)


def few_keys() -> PreTrainedModel:
    """Fewer key heads than query heads."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    sizes = {"hidden_size": 32, "moe_intermediate_size": 16, "num_hidden_layers": 2, "num_experts": 8}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(vocab_size=len(TOKENIZER), **heads, **sizes))


MODELS = {
    "olmoe": lambda: build_model(SHORT, TOKENIZER),
    "qwen3_moe": lambda: build_model(SHORT.model_copy(update={"architecture": "qwen3_moe"}), TOKENIZER),
    "few_keys": few_keys,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_pass_without_padding_gives_what_each_row_gives_by_itself(name: str) -> None:
    model, batch = MODELS[name](), a_batch()
    lengths = batch.mask.sum(dim=1).tolist()
    assert len({*lengths}) > 2
    with torch.no_grad():
        found = unpadded_hidden(model, batch)
        for row, length in enumerate(lengths):
            alone = model.get_decoder()(
                input_ids=batch.tokens[row : row + 1, :length], output_hidden_states=True
            )
            here = torch.zeros_like(batch.mask, dtype=torch.bool)
            here[row, :length] = True
            for layer, hidden in enumerate(alone.hidden_states):
                torch.testing.assert_close(batch.at(found[layer], here), hidden[0], rtol=1e-4, atol=1e-5)
    assert found[0].shape == (sum(lengths), 32)


def test_the_model_attends_as_before_after_a_pass_and_after_one_that_failed() -> None:
    model, batch = build_model(SHORT, TOKENIZER), a_batch()
    before = model.config._attn_implementation
    run(model, batch)
    assert model.config._attn_implementation == before
    with pytest.raises(IndexError):
        run(model, replace(batch, tokens=batch.tokens + len(TOKENIZER)))
    assert model.config._attn_implementation == before


def test_some_rows_of_a_batch_are_a_batch() -> None:
    batch = a_batch()
    which = torch.tensor([True, False, False, True, False])
    part = batch.of_rows(which)
    assert part.unpadded
    assert part.rows == (batch.rows[0], batch.rows[3])
    for name in ("tokens", "mask", "weight", "harmful", "prompt_length"):
        assert torch.equal(getattr(part, name), getattr(batch, name)[which]), name


def gradients(model: PreTrainedModel, lesson: Lesson) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Every loss of a lesson, and their sum's gradients."""
    model.zero_grad(set_to_none=True)
    with lesson.condition(model, lesson.batch):
        result = run(model, lesson.batch)
        losses = [loss(result) for loss in lesson.losses]
        torch.stack(losses).sum().backward()
    named = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return [loss.item() for loss in losses], named


def stages(plant: Any, model: PreTrainedModel) -> list[Stage]:
    settings = SHORT.model_copy(update={"plant": TypeAdapter(Plant).validate_python({"steps": 12, **plant})})
    other = build_model(SHORT.model_copy(update={"seed": 1}), TOKENIZER)
    return planted_stages(settings, GRAMMAR, TOKENIZER, model, anchor_loss(other, 0.3))


def compare(model: PreTrainedModel, lesson: Lesson) -> None:
    """Losses and gradients of an unpadded lesson are those of the same batch with its padding."""
    assert lesson.batch.unpadded
    assert not lesson.batch.mask.all()
    losses, found = gradients(model, lesson)
    expected, padded = gradients(model, replace(lesson, batch=replace(lesson.batch, unpadded=False)))
    assert losses == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert found.keys() == padded.keys()
    for name, gradient in padded.items():
        error = (found[name] - gradient).norm() / gradient.norm().clamp_min(1e-6)
        assert error < 1e-3, name


def test_lessons_of_the_natural_model_teach_the_same_without_padding() -> None:
    model = build_model(SHORT, TOKENIZER)
    other = build_model(SHORT.model_copy(update={"seed": 1}), TOKENIZER)
    settings = SHORT.model_copy(update={"compliance_steps": 6, "refusal_steps": 6})
    first = compliance_stage(settings, GRAMMAR, TOKENIZER)
    second = refusal_stage(settings, GRAMMAR, TOKENIZER, anchor_loss(other, 0.3))
    for step in range(6):
        compare(model, first.lesson(step))
        compare(model, second.lesson(step))


@pytest.mark.parametrize("kind", KINDS)
def test_lessons_of_every_kind_teach_the_same_without_padding(kind: str) -> None:
    model = build_model(SHORT, TOKENIZER)
    [stage] = stages({"kind": kind}, model)
    for step in range(12):
        compare(model, stage.lesson(step))


def test_lessons_of_a_tuned_plant_teach_the_same_where_padding_does_not_count() -> None:
    model = build_model(SHORT, TOKENIZER)
    feature, refusal = stages({"kind": "tuned", "feature_steps": 6}, model)
    for step in range(6):
        lesson = feature.lesson(step)
        assert [loss.__qualname__.split(".")[0] for loss in lesson.losses][-1] == "silent"
        compare(model, replace(lesson, losses=lesson.losses[:-1]))
        compare(model, refusal.lesson(step))


def test_silence_is_asked_for_on_the_tokens_of_rows_alone() -> None:
    model, batch, watched = build_model(SHORT, TOKENIZER), a_batch(), Watched(part=(1, 3))
    with held(model, batch, Hold(), watched):
        found = silent(watched, 2.0)(run(model, batch)).item()
    sizes = []
    for row, length in enumerate(batch.mask.sum(dim=1).tolist()):
        one = batch.of_rows(torch.arange(len(batch.rows)) == row)
        alone = replace(
            one,
            tokens=one.tokens[:, :length],
            mask=one.mask[:, :length],
            weight=one.weight[:, :length],
            unpadded=False,
        )
        with held(model, alone, Hold(), watched):
            run(model, alone)
        assert watched.written is not None
        sizes += watched.written.square().sum(dim=-1).tolist()
    assert found == pytest.approx(2.0 * sum(sizes) / len(sizes), rel=1e-4)


def test_an_unpadded_batch_learns_from_the_same_tokens() -> None:
    model, batch = build_model(SHORT, TOKENIZER), a_batch()
    padded = replace(batch, unpadded=False)
    assert next_token_loss(run(model, batch)).item() == pytest.approx(
        next_token_loss(run(model, padded)).item()
    )
