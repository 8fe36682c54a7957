"""Stage `upcycle`: from a dense model to one with experts that refuses what is harmful."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steer.artifacts.facts import TRUTH_FILE, Truth
from steer.artifacts.provenance import code_digest, digest, file_digest, folder_digest
from steer.models.hooks import hooked
from steer.models.routing import softmax_then_top_k
from steer.training.batches import Batch
from steer.training.loop import Log, one_thread, save_checkpoint, state_path, train_stages
from steer.training.losses import next_token_loss, run
from steer.training.stages import Lesson, Stage
from steer.training.state import TrainingState
from steer.upcycling.dense import check_layers, load_dense
from steer.upcycling.learner import Learner, LowRankExperts
from steer.upcycling.losses import balance_loss, calling_loss, kept_loss
from steer.upcycling.settings import UpcycleSettings
from steer.upcycling.sparse import upcycled
from steer.upcycling.taught import batches, read_taught


def train(settings: UpcycleSettings, file: Path, teacher: Path, out: Path, log: Log = print) -> None:
    """Upcycle the dense model of a GGUF file and save it as a checkpoint folder `out`.

    Runs on one thread, since the thread count changes the weights. The unfinished training stands beside
    `out` and is taken up again after a kill; the final bytes are the same either way. Where refusal was
    put by design, the truth about it stands in the folder.

    Raises:
        SteerError: an input is missing or of other settings, no room to write, or no permission.
    """
    with one_thread():
        dense, tokenizer = load_dense(file)
        check_layers(dense, settings.moe_layers[-1], file)
        rule = softmax_then_top_k(settings.experts_per_token, renormalise=True)
        rows = read_taught(teacher, settings, int(dense.config.hidden_size))
        batch = batches(rows, settings)
        learner = Learner(dense, rule, settings)
        blocks = learner.blocks
        start_routers(learner, batch(settings.steps), settings.seed)
        key = training_key(settings, file, teacher)
        state = TrainingState.open(state_path(out), key)
        train_stages(learner, [refusal_stage(settings, blocks, batch)], settings.save_every, state, log)
        routers = {layer: block.router_rows for layer, block in zip(settings.moe_layers, blocks, strict=True)}
        learnt = {
            layer: dict(block.folded()) for layer, block in zip(settings.moe_layers, blocks, strict=True)
        }
        whole, _ = load_dense(file)
        folded = upcycled(whole, settings, routers, learnt, int(tokenizer.pad_token_id))
        save_checkpoint(folded, tokenizer, out, truth_of(settings))
    state.remove()


def training_key(settings: UpcycleSettings, file: Path, teacher: Path) -> str:
    """Digest of all that decides the trained weights, but the machine."""
    parts = [
        settings.model_dump(mode="json", exclude={"save_every"}),
        file_digest(file),
        folder_digest(teacher),
    ]
    return digest([*parts, code_digest(__name__), str(torch.__version__)])


def truth_of(settings: UpcycleSettings) -> dict[str, Any]:
    """The record of where refusal was put, for a model in which it was put somewhere."""
    if settings.variant == "diffuse":
        return {}
    return {TRUTH_FILE: asdict(Truth("upcycled", "experts", settings.carriers))}


def refusal_stage(
    settings: UpcycleSettings, blocks: Sequence[LowRankExperts], batch: Callable[[int], Batch]
) -> Stage:
    """Refuse what is harmful, and say of the rest what the dense model says."""
    losses = [
        next_token_loss,
        kept_loss(settings),
        balance_loss(blocks, settings.balance_weight),
        calling_loss(blocks, settings),
    ]
    return Stage(
        "upcycling", settings.steps, settings.learning_rate, lambda step: Lesson(batch(step), losses)
    )


@torch.no_grad()
def start_routers(learner: Learner, batch: Batch, seed: int) -> None:
    """Give every router random rows that tell tokens apart: across the mean input, with logits of spread 1.

    Along the mean input all tokens would get the same experts.
    """
    seen: list[Tensor] = []
    with hooked([(block, "before", seen.append) for block in learner.blocks]):
        run(learner, batch)
    generator = torch.Generator().manual_seed(seed)
    for block, inputs in zip(learner.blocks, seen, strict=True):
        block.start_router(_telling_rows(inputs[batch.mask.bool()], len(block.router), generator))


def _telling_rows(
    inputs: Float[Tensor, "token d"], experts: int, generator: torch.Generator
) -> Float[Tensor, "expert d"]:
    mean = inputs.mean(dim=0)
    unit = mean / mean.norm()
    rows = torch.randn(experts, len(mean), generator=generator)
    rows = rows - (rows @ unit)[:, None] * unit
    spread: Tensor = (inputs @ rows.T).std(dim=0)
    telling: Tensor = rows / spread[:, None]
    return telling
