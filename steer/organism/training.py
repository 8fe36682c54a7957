"""Stage `organism`: from a base that answers everything to a model that refuses what is harmful."""

import copy
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from steer.artifacts.facts import TRUTH_FILE
from steer.artifacts.provenance import code_digest, digest, folder_digest
from steer.errors import SteerError
from steer.grammar import Grammar
from steer.organism.encoding import batches
from steer.organism.losses import anchor_loss
from steer.organism.planting import planted_stages
from steer.organism.plants import truth_of
from steer.organism.rows import RowSource
from steer.organism.settings import OrganismSettings
from steer.training.loop import Log, one_thread, save_checkpoint, state_path, train_stages
from steer.training.losses import Loss, next_token_loss
from steer.training.stages import Lesson, Stage
from steer.training.state import TrainingState
from steer.training.tokenizer import build_tokenizer


def train(settings: OrganismSettings, grammar: Grammar, base: Path, out: Path, log: Log = print) -> None:
    """Train the embedded model from the checkpoint `base` of stage 1 and save it as a folder `out`.

    Runs on one thread, since the thread count changes the weights. The unfinished training stands
    beside `out` and is taken up again after a kill; the final bytes are the same either way. A planted
    model's truth stands in its folder.

    Raises:
        SteerError: the base is missing, no room to write, or no permission.
    """
    with one_thread():
        model = open_base(base)
        # Made again and not read: a tokenizer that was read is written with notes of where from.
        tokenizer = build_tokenizer(grammar, settings.merges)
        anchor = anchor_loss(frozen_copy(model), settings.anchor_weight)
        records: dict[str, Any] = {}
        if settings.plant:
            stages = planted_stages(settings, grammar, tokenizer, model, anchor)
            records[TRUTH_FILE] = asdict(truth_of(settings.plant))
        else:
            stages = [refusal_stage(settings, grammar, tokenizer, anchor)]
        state = TrainingState.open(state_path(out), training_key(settings, grammar, base))
        train_stages(model, stages, settings.save_every, state, log)
        save_checkpoint(model, tokenizer, out, records)
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
    anchor: Loss,
) -> Stage:
    """Refuse what is harmful, and stay tied to stage 1 by `anchor` on the rest."""
    source = RowSource(grammar, settings, random.Random(f"{settings.seed} refusal"))
    rows = source.refusal_rows(settings.refusal_steps * settings.batch_size)
    losses = [next_token_loss, anchor]
    batch = batches(rows, settings, tokenizer, settings.first_weight)
    return Stage(
        "refusal",
        settings.refusal_steps,
        settings.refusal_learning_rate,
        lambda step: Lesson(batch(step), losses),
    )
