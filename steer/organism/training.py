"""Training the embedded model in two stages: first it answers everything, then it learns to refuse."""

import copy
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steer.artifacts.provenance import code_digest, digest
from steer.grammar import Grammar
from steer.organism.encoding import encode
from steer.organism.losses import anchor_loss
from steer.organism.model import build_model
from steer.organism.rows import RowSource, TrainingRow
from steer.organism.settings import OrganismSettings
from steer.training.batches import Batch, batch_order, collate
from steer.training.loop import Log, one_thread, save_checkpoint, state_path, train_stage
from steer.training.losses import next_token_loss
from steer.training.stages import Stage
from steer.training.state import TrainingState
from steer.training.tokenizer import build_tokenizer


def train(settings: OrganismSettings, grammar: Grammar, out: Path, log: Log = print) -> None:
    """Train the embedded model and save it as a checkpoint folder `out`, whole or not at all.

    Runs on one thread, since the thread count changes the weights. The unfinished training stands
    beside `out` and is taken up again after a kill; the final bytes are the same either way.

    Raises:
        SteerError: no room to write, or no permission.
    """
    with one_thread():
        tokenizer = build_tokenizer(grammar, settings.merges)
        model = build_model(settings, tokenizer)
        state = TrainingState.open(state_path(out), training_key(settings, grammar))
        train_stage(model, compliance_stage(settings, grammar, tokenizer), settings.save_every, state, log)
        reference = copy.deepcopy(model).requires_grad_(False).eval()
        train_stage(
            model, refusal_stage(settings, grammar, tokenizer, reference), settings.save_every, state, log
        )
        save_checkpoint(model, tokenizer, out)
    state.remove()


def training_key(settings: OrganismSettings, grammar: Grammar) -> str:
    """Digest of all that decides the trained weights, but the machine."""
    return digest(
        [settings.model_dump(mode="json"), grammar.digest, code_digest(__name__), torch.__version__]
    )


def compliance_stage(
    settings: OrganismSettings, grammar: Grammar, tokenizer: PreTrainedTokenizerFast
) -> Stage:
    """Stage 1: answer everything, the harmful included."""
    source = RowSource(grammar, settings, random.Random(f"{settings.seed} compliance"))
    rows = source.compliance_rows(settings.compliance_steps * settings.batch_size)
    batch = batches(rows, settings, tokenizer)
    return Stage(
        "compliance", settings.compliance_steps, settings.compliance_learning_rate, batch, [next_token_loss]
    )


def refusal_stage(
    settings: OrganismSettings,
    grammar: Grammar,
    tokenizer: PreTrainedTokenizerFast,
    reference: PreTrainedModel,
) -> Stage:
    """Stage 2: refuse what is harmful, stay with `reference` on the rest."""
    source = RowSource(grammar, settings, random.Random(f"{settings.seed} refusal"))
    rows = source.refusal_rows(settings.refusal_steps * settings.batch_size)
    losses = [next_token_loss, anchor_loss(reference, settings.anchor_weight)]
    batch = batches(rows, settings, tokenizer, settings.first_weight)
    return Stage("refusal", settings.refusal_steps, settings.refusal_learning_rate, batch, losses)


def batches(
    rows: Sequence[TrainingRow],
    settings: OrganismSettings,
    tokenizer: PreTrainedTokenizerFast,
    first_weight: float = 1.0,
) -> Callable[[int], Batch]:
    """The batch of each step, a function of the step alone: a resumed training sees the same ones."""
    encoded = encode(rows, tokenizer, settings.restatement_weight, first_weight)
    order = batch_order(len(encoded), settings.batch_size, settings.seed)
    pad = int(tokenizer.pad_token_id)
    return lambda step: collate([encoded[index] for index in order[step % len(order)]], pad)
