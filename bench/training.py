"""Training steps of the embedded models without padding against the same steps with it."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from bench.timing import Line, rate, seconds
from steer.grammar import Grammar
from steer.organism.compliance import compliance_stage
from steer.organism.losses import anchor_loss
from steer.organism.model import build_model
from steer.organism.planting import planted_stages
from steer.organism.plants import ContentPlant
from steer.organism.settings import OrganismSettings
from steer.organism.training import frozen_copy
from steer.training.loop import BETAS, one_thread, train_step
from steer.training.stages import Lesson, Stage
from steer.training.tokenizer import build_tokenizer

STEPS, ROUNDS = 10, 5


def lines(_folder: Path) -> Iterator[Line]:
    """Steps per second of the embedded model's shape, one thread."""
    settings = OrganismSettings(compliance_steps=STEPS, plant=ContentPlant(kind="content", steps=STEPS))
    grammar = Grammar.load(Path("data/grammar"))
    tokenizer = build_tokenizer(grammar, settings.merges)
    with one_thread():
        model = build_model(settings, tokenizer)
        anchor = anchor_loss(frozen_copy(model), settings.anchor_weight)
        first = compliance_stage(settings, grammar, tokenizer)
        [planted] = planted_stages(settings, grammar, tokenizer, model, anchor)

        def train(stage: Stage) -> None:
            learning = frozen_copy(model).train().requires_grad_(True)
            optimizer = torch.optim.AdamW(learning.parameters(), betas=BETAS)
            for step in range(STEPS):
                train_step(learning, stage, optimizer, step)

        for name, stage in {"stage 1": first, "planting": planted}.items():
            ways = {"unpadded": partial(train, stage), "naive": partial(train, padded(stage))}
            taken = seconds(ways, ROUNDS)
            yield rate(f"organism: {name} / with padding", "steps/s", STEPS, taken, "unpadded", "(shown)")


def padded(stage: Stage) -> Stage:
    """The stage with the padding of its batches."""

    def lesson(step: int) -> Lesson:
        made = stage.lesson(step)
        return replace(made, batch=replace(made.batch, unpadded=False))

    return replace(stage, lesson=lesson)
