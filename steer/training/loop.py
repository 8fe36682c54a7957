"""The training loop: stages in order, saved now and then, taken up again after a kill."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steer.artifacts.files import atomic_path, write_json
from steer.kernels import instructions
from steer.memory import keep_freed_memory
from steer.training.losses import run
from steer.training.stages import Stage
from steer.training.state import TrainingState

Log = Callable[[str], None]
GRADIENT_NORM = 1.0
BETAS = (0.9, 0.98)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread inside the block."""
    keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def state_path(out: Path) -> Path:
    """Where the unfinished training of `out` stands."""
    return out.with_name(f".{out.name}.training.pt")


def train_stages(
    model: PreTrainedModel, stages: Sequence[Stage], save_every: int, state: TrainingState, log: Log
) -> None:
    """Run stages from where `state` stands to their end, saving after every `save_every` steps of each."""
    log(f"computing with {instructions()}")
    for number, stage in enumerate(stages):
        if number < state.stage:
            continue
        _train_stage(model, stage, save_every, state, log)
        if number + 1 < len(stages):
            state.next_stage(model.state_dict())
            state.save()


def _train_stage(
    model: PreTrainedModel, stage: Stage, save_every: int, state: TrainingState, log: Log
) -> None:
    frozen = [weight for name, weight in model.named_parameters() if not stage.trains(name)]
    for weight in frozen:
        weight.requires_grad_(False)
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learned, betas=BETAS, weight_decay=stage.weight_decay)
    if state.model:
        model.load_state_dict(state.model)
    if state.step:
        optimizer.load_state_dict(state.optimizer)
        log(f"{stage.name}: going on at step {state.step}")
    model.train()
    # What an earlier stage left on weights that are frozen now would count in the norm that is clipped.
    model.zero_grad(set_to_none=True)
    for step in range(state.step, stage.steps):
        loss = train_step(model, stage, optimizer, step)
        if (step + 1) % save_every == 0 and step + 1 < stage.steps:
            log(f"{stage.name}: step {step + 1} of {stage.steps}, loss {loss.item():.3f}")
            state.step, state.model, state.optimizer = step + 1, model.state_dict(), optimizer.state_dict()
            state.save()
    for weight in frozen:
        weight.requires_grad_(True)


def train_step(model: PreTrainedModel, stage: Stage, optimizer: torch.optim.Optimizer, step: int) -> Tensor:
    """One optimiser step; returns the summed loss before it."""
    for group in optimizer.param_groups:
        group["lr"] = stage.rate(step)
    lesson = stage.lesson(step)
    with lesson.condition(model, lesson.batch):
        result = run(model, lesson.batch)
        loss = torch.stack([term(result) for term in lesson.losses]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
    optimizer.step()
    return loss.detach()


def save_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
    records: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Save model, tokenizer and chat template as an ordinary Hugging Face checkpoint folder.

    `records` are JSON files beside them, by name.
    """
    model.eval()
    with atomic_path(out) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        for name, record in records.items():
            write_json(partial / name, record)
        # safetensors makes its file for its owner alone; the folder shows what the umask allows others.
        mode = partial.stat().st_mode & 0o666
        for member in partial.iterdir():
            member.chmod(mode)
