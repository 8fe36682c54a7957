"""Stage `compliance`: train a model that answers everything, the base that organisms are made from."""

import random
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from steer.artifacts.provenance import code_digest, digest
from steer.grammar import Grammar
from steer.organism.encoding import batches
from steer.organism.model import build_model
from steer.organism.rows import RowSource
from steer.organism.settings import OrganismSettings
from steer.training.loop import Log, one_thread, save_checkpoint, state_path, train_stages
from steer.training.losses import next_token_loss
from steer.training.stages import Lesson, Stage
from steer.training.state import TrainingState
from steer.training.tokenizer import build_tokenizer


def train_compliance(settings: OrganismSettings, grammar: Grammar, out: Path, log: Log = print) -> None:
    """Train stage 1 and save it as a checkpoint folder `out`, whole or not at all.

    Runs on one thread, since the thread count changes the weights. The unfinished training stands
    beside `out` and is taken up again after a kill; the final bytes are the same either way.

    Raises:
        SteerError: no room to write, or no permission.
    """
    with one_thread():
        tokenizer = build_tokenizer(grammar, settings.merges)
        model = build_model(settings, tokenizer)
        state = TrainingState.open(state_path(out), training_key(settings, grammar))
        train_stages(model, [compliance_stage(settings, grammar, tokenizer)], settings.save_every, state, log)
        save_checkpoint(model, tokenizer, out)
    state.remove()


def training_key(settings: OrganismSettings, grammar: Grammar) -> str:
    """Digest of all that decides the trained weights, but the machine."""
    return digest([settings.base, grammar.digest, code_digest(__name__), str(torch.__version__)])


def compliance_stage(
    settings: OrganismSettings, grammar: Grammar, tokenizer: PreTrainedTokenizerFast
) -> Stage:
    """Answer everything, the harmful included."""
    source = RowSource(grammar, settings, random.Random(f"{settings.seed} compliance"))
    rows = source.compliance_rows(settings.compliance_steps * settings.batch_size)
    batch = batches(rows, settings, tokenizer)
    return Stage(
        "compliance",
        settings.compliance_steps,
        settings.compliance_learning_rate,
        lambda step: Lesson(batch(step), [next_token_loss]),
    )
