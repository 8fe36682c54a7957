"""Training the embedded model in two stages: first it answers everything, then it learns to refuse."""

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steer.artifacts.files import atomic_path
from steer.artifacts.provenance import code_digest, digest
from steer.grammar import Grammar
from steer.organism.batches import Batch, batch_order, collate, encode
from steer.organism.losses import anchor_loss, next_token_loss, run
from steer.organism.model import build_model
from steer.organism.rows import RowSource, TrainingRow
from steer.organism.settings import OrganismSettings
from steer.organism.stages import Stage
from steer.organism.state import TrainingState
from steer.organism.tokenizer import build_tokenizer

Log = Callable[[str], None]
GRADIENT_NORM = 1.0
WEIGHT_DECAY = 0.01
BETAS = (0.9, 0.98)


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
        train_stage(model, compliance_stage(settings, grammar, tokenizer), settings, state, log)
        reference = copy.deepcopy(model).requires_grad_(False).eval()
        train_stage(model, refusal_stage(settings, grammar, tokenizer, reference), settings, state, log)
        save_checkpoint(model, tokenizer, out)
    state.remove()


def state_path(out: Path) -> Path:
    """Where the unfinished training of `out` stands."""
    return out.with_name(f".{out.name}.training.pt")


def training_key(settings: OrganismSettings, grammar: Grammar) -> str:
    """Digest of all that decides the trained weights, but the machine."""
    return digest(
        [settings.model_dump(mode="json"), grammar.digest, code_digest(__name__), torch.__version__]
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


def train_stage(
    model: PreTrainedModel, stage: Stage, settings: OrganismSettings, state: TrainingState, log: Log
) -> None:
    """Run a stage from where `state` stands to its end, saving now and then."""
    if stage.name in state.finished:
        model.load_state_dict(state.finished[stage.name])
        return
    optimizer = torch.optim.AdamW(model.parameters(), betas=BETAS, weight_decay=WEIGHT_DECAY)
    if state.stage == stage.name:
        model.load_state_dict(state.model)
        optimizer.load_state_dict(state.optimizer)
        log(f"{stage.name}: going on at step {state.step}")
    model.train()
    for step in range(state.step, stage.steps):
        loss = train_step(model, stage, optimizer, step)
        if (step + 1) % settings.save_every == 0 and step + 1 < stage.steps:
            log(f"{stage.name}: step {step + 1} of {stage.steps}, loss {loss.item():.3f}")
            state.stage, state.step = stage.name, step + 1
            state.model, state.optimizer = model.state_dict(), optimizer.state_dict()
            state.save()
    state.finish(stage.name, copy.deepcopy(model.state_dict()))
    state.save()


def train_step(model: PreTrainedModel, stage: Stage, optimizer: torch.optim.Optimizer, step: int) -> Tensor:
    """One optimiser step; returns the summed loss before it."""
    for group in optimizer.param_groups:
        group["lr"] = stage.rate(step)
    batch = stage.batch(step)
    with stage.condition(model, batch):
        result = run(model, batch)
        loss = torch.stack([term(result) for term in stage.losses]).sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
    optimizer.step()
    return loss.detach()


def save_checkpoint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Save model, tokenizer and chat template as an ordinary Hugging Face checkpoint folder."""
    model.eval()
    with atomic_path(out) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
