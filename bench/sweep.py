"""A sweep over coefficients as one mixed batch, against one run a coefficient."""

from collections.abc import Iterator
from pathlib import Path

import torch

from bench.models import models, token_rows
from bench.timing import Line, rate, seconds
from steer.models.decoding import generate
from steer.models.interventions import Arm, Operation
from steer.models.loading import LoadedModel

COEFFICIENTS, PROMPTS, TOKENS, ROUNDS = 12, 8, 48, 2
Rows, Doses = list[list[int]], list[Arm]
TARGETS = {"mid": ">= 3", "organism": "(shown)"}


def doses(loaded: LoadedModel) -> list[Arm]:
    """The same direction at twelve coefficients."""
    r = torch.randn(loaded.hidden_size, generator=torch.Generator().manual_seed(0))
    layer = loaded.layers // 2
    return [
        Arm(f"{step}", (Operation("add", "r", layer, 1e-4 * step),), {"r": r}) for step in range(COEFFICIENTS)
    ]


def lines(folder: Path) -> Iterator[Line]:
    """Sweeps per second."""
    for name, loaded in models(folder).items():
        loaded.model.generation_config.eos_token_id = None
        loaded.tokenizer.eos_token = None
        tokens, arms = token_rows(loaded, PROMPTS), doses(loaded)

        def one_by_one(loaded: LoadedModel = loaded, tokens: Rows = tokens, arms: Doses = arms) -> None:
            for arm in arms:
                generate(loaded, tokens, [arm] * PROMPTS, TOKENS)

        def mixed(loaded: LoadedModel = loaded, tokens: Rows = tokens, arms: Doses = arms) -> None:
            rows = [arm for arm in arms for _ in range(PROMPTS)]
            generate(loaded, tokens * COEFFICIENTS, rows, TOKENS)

        taken = seconds({"naive": one_by_one, "mixed": mixed}, ROUNDS)
        what = f"{name}: {COEFFICIENTS} coefficients, one batch / one by one"
        yield rate(what, "sweeps/s", 1, taken, "mixed", TARGETS[name])
