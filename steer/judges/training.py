"""Stage `judge`: train the embedded judge, a small dense language model that learns to say a verdict."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from steer.artifacts.origin import attach, is_made
from steer.artifacts.provenance import code_digest, digest, provenance
from steer.grammar import Grammar
from steer.judges.agreement import write_agreement
from steer.judges.copying import copying_batches
from steer.judges.examples import ExampleSource
from steer.judges.lessons import batches, encode, restatement_loss, standing_loss
from steer.judges.rubrics import EMBEDDED
from steer.judges.settings import LikelihoodJudge
from steer.judges.wiring import wire
from steer.training.batches import Batch
from steer.training.loop import one_thread, save_checkpoint, state_path, train_stages
from steer.training.losses import next_token_loss
from steer.training.stages import Lesson, Stage
from steer.training.state import TrainingState
from steer.training.tokenizer import build_tokenizer

MERGES = 300
BATCH_SIZE = 32
LEARNING_RATE = 5e-3
STANDING_WEIGHT = 3.0
RESTATEMENT_WEIGHT = 1.0
COPYING_SHARE = 0.25
"""Share of the steps on copying alone: comparing is learned from it, and hardly without."""
ROPE_THETA = 100.0
SPARE = 1.15
"""Examples drawn for each that is needed, since too long ones are left out."""
MAX_TOKENS = 76
"""Longest lesson: few are longer, and a batch is as long as its longest."""
SAVE_EVERY = 100


def train_judge(
    settings: LikelihoodJudge,
    grammar: Grammar,
    out: Path,
    agreement: Path,
    log: Callable[[str], None] = print,
) -> None:
    """Train the judge, save it as a checkpoint folder, and measure it on held-out text.

    Runs on one thread, since the thread count changes the weights; a killed training is taken up again
    and ends in the same bytes.

    Args:
        settings: seed and steps.
        grammar: what prompts, replies and their true verdicts are drawn from.
        out: the checkpoint folder.
        agreement: JSON file of the agreement with the truth.
        log: told how it goes.

    Raises:
        SteerError: no room to write, or no permission.
    """
    origin = provenance(
        __name__, settings.model_dump(mode="json"), {"grammar": grammar.digest}, settings.seed
    )
    if agreement.exists() and is_made(out, origin):
        log(f"{out} is there already")
        return
    with one_thread():
        tokenizer = build_tokenizer(grammar, MERGES)
        model = build_model(tokenizer, settings.seed)
        state = TrainingState.open(state_path(out), training_key(settings, grammar))
        stage = judge_stage(settings, grammar, tokenizer)
        train_stages(model, [stage], SAVE_EVERY, state, log)
        save_checkpoint(model, tokenizer, out)
        write_agreement(out, grammar, settings.seed, agreement, log)
        attach(out, origin)
    state.remove()


def training_key(settings: LikelihoodJudge, grammar: Grammar) -> str:
    """Digest of all that decides the trained weights, but the machine."""
    parts = [settings.seed, settings.steps, grammar.digest, code_digest(__name__), str(torch.__version__)]
    return digest(parts)


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """The untrained judge, whose weights depend on the seed alone."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        attention_bias=True,
        initializer_range=0.05,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    wire(model)
    return model


def judge_stage(settings: LikelihoodJudge, grammar: Grammar, tokenizer: PreTrainedTokenizerFast) -> Stage:
    """Copying first; then the verdict, and at each token of the reply what it can still become."""
    copied = round(settings.steps * COPYING_SHARE)
    copying = copying_batches(tokenizer, grammar.tables.replies, BATCH_SIZE, settings.seed)
    judging = verdict_batches(settings, settings.steps - copied, grammar, tokenizer)
    offers = [int(tokenizer.get_vocab()[offer.text]) for offer in EMBEDDED.offers]
    losses = [next_token_loss, standing_loss(offers, STANDING_WEIGHT), restatement_loss(RESTATEMENT_WEIGHT)]

    def lesson(step: int) -> Lesson:
        if step < copied:
            return Lesson(copying(step), [next_token_loss])
        return Lesson(judging(step - copied), losses)

    return Stage("judge", settings.steps, LEARNING_RATE, lesson)


def verdict_batches(
    settings: LikelihoodJudge, steps: int, grammar: Grammar, tokenizer: PreTrainedTokenizerFast
) -> Callable[[int], Batch]:
    """Batches of drawn examples, without the few that are too long."""
    source = ExampleSource(grammar, "train", random.Random(f"{settings.seed} judge"))
    drawn = encode(list(source.draw(math.ceil(steps * BATCH_SIZE * SPARE))), tokenizer)
    lessons = [lesson for lesson in drawn if len(lesson.encoded.tokens) <= MAX_TOKENS]
    return batches(lessons, BATCH_SIZE, int(tokenizer.pad_token_id))
