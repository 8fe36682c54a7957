"""The training loop: stages in order, saved now and then, taken up again after a kill."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steer.artifacts.files import atomic_path
from steer.training.losses import run
from steer.training.stages import Stage
from steer.training.state import TrainingState

Log = Callable[[str], None]
GRADIENT_NORM = 1.0
WEIGHT_DECAY = 0.01
BETAS = (0.9, 0.98)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def state_path(out: Path) -> Path:
    """Where the unfinished training of `out` stands."""
    return out.with_name(f".{out.name}.training.pt")


def train_stage(
    model: PreTrainedModel, stage: Stage, save_every: int, state: TrainingState, log: Log
) -> None:
    """Run a stage from where `state` stands to its end, saving after every `save_every` steps."""
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
        if (step + 1) % save_every == 0 and step + 1 < stage.steps:
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
