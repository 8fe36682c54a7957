"""A plant's training steps without padding against the same steps with it."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from bench.timing import Line, rate, seconds
from steer.grammar import Grammar
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
    settings = OrganismSettings(plant=ContentPlant(kind="content", steps=STEPS))
    grammar = Grammar.load(Path("data/grammar"))
    tokenizer = build_tokenizer(grammar, settings.merges)
    with one_thread():
        model = build_model(settings, tokenizer)
        anchor = anchor_loss(frozen_copy(model), settings.anchor_weight)
        [stage] = planted_stages(settings, grammar, tokenizer, model, anchor)

        def padded(step: int) -> Lesson:
            lesson = stage.lesson(step)
            return replace(lesson, batch=replace(lesson.batch, unpadded=False))

        def train(stage: Stage) -> None:
            learning = frozen_copy(model).train().requires_grad_(True)
            optimizer = torch.optim.AdamW(learning.parameters(), betas=BETAS)
            for step in range(STEPS):
                train_step(learning, stage, optimizer, step)

        ways = {"unpadded": partial(train, stage), "naive": partial(train, replace(stage, lesson=padded))}
        taken = seconds(ways, ROUNDS)
    yield rate("organism: training / training with padding", "steps/s", STEPS, taken, "unpadded", "(shown)")
