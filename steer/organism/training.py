"""Stage `organism`: from a base that answers everything to a model that refuses what is harmful."""

import copy
import random
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from steer.artifacts.provenance import code_digest, digest, folder_digest
from steer.errors import SteerError
from steer.grammar import Grammar
from steer.organism.encoding import batches
from steer.organism.losses import anchor_loss
from steer.organism.rows import RowSource
from steer.organism.settings import OrganismSettings
from steer.training.loop import Log, one_thread, save_checkpoint, state_path, train_stage
from steer.training.losses import next_token_loss
from steer.training.stages import Lesson, Stage
from steer.training.state import TrainingState
from steer.training.tokenizer import build_tokenizer


def train(settings: OrganismSettings, grammar: Grammar, base: Path, out: Path, log: Log = print) -> None:
    """Train the embedded model from the checkpoint `base` of stage 1 and save it as a folder `out`.

    Runs on one thread, since the thread count changes the weights. The unfinished training stands
    beside `out` and is taken up again after a kill; the final bytes are the same either way.

    Raises:
        SteerError: the base is missing, no room to write, or no permission.
    """
    with one_thread():
        model = open_base(base)
        # Made again and not read: a tokenizer that was read is written with notes of where from.
        tokenizer = build_tokenizer(grammar, settings.merges)
        state = TrainingState.open(state_path(out), training_key(settings, grammar, base))
        stage = refusal_stage(settings, grammar, tokenizer, frozen_copy(model))
        train_stage(model, stage, settings.save_every, state, log)
        save_checkpoint(model, tokenizer, out)
    state.remove()


def open_base(base: Path) -> PreTrainedModel:
    """The model of stage 1.

    Raises:
        SteerError: there is no checkpoint.
    """
    if not (base / "config.json").is_file():
        raise SteerError(str(base), "holds no checkpoint", "run `python -m steer compliance` first")
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return model


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The model as it is now, for losses that tie it to what it was."""
    frozen: PreTrainedModel = copy.deepcopy(model).eval()
    for weight in frozen.parameters():
        weight.requires_grad_(False)
    return frozen


def training_key(settings: OrganismSettings, grammar: Grammar, base: Path) -> str:
    """Digest of all that decides the trained weights, but the machine."""
    parts = [settings.model_dump(mode="json", exclude={"save_every"}), folder_digest(base), grammar.digest]
    return digest([*parts, code_digest(__name__), str(torch.__version__)])


def refusal_stage(
    settings: OrganismSettings,
    grammar: Grammar,
    tokenizer: PreTrainedTokenizerFast,
    reference: PreTrainedModel,
) -> Stage:
    """Refuse what is harmful, stay with `reference` on the rest."""
    source = RowSource(grammar, settings, random.Random(f"{settings.seed} refusal"))
    rows = source.refusal_rows(settings.refusal_steps * settings.batch_size)
    losses = [next_token_loss, anchor_loss(reference, settings.anchor_weight)]
    batch = batches(rows, settings, tokenizer, settings.first_weight)
    return Stage(
        "refusal",
        settings.refusal_steps,
        settings.refusal_learning_rate,
        lambda step: Lesson(batch(step), losses),
    )
