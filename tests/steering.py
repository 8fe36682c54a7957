"""Arms of every operation, ragged prompts, and replies that are fed token by token, for tests of steering."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steer.models.firing import Fired
from steer.models.interventions import SCOPES, Arm, Operation, Scope, orthonormal_basis
from steer.models.loading import LoadedModel
from steer.models.steering import steer
from tests.tiny import HIDDEN, LAYERS, VOCABULARY

Tiny = Callable[[str], LoadedModel]
Checkpoint = Callable[[str], Path]

STEPS = 3
BASELINE = Arm("baseline")


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(*operations: Operation) -> Arm:
    """An arm with a tensor of the right shape for each operation, by its kind."""
    tensors = {
        "add": random(HIDDEN, seed=1),
        "ablate": orthonormal_basis(random(1, HIDDEN, seed=2)),
        "ablate2": orthonormal_basis(random(2, HIDDEN, seed=3)),
        "affine": random(2, HIDDEN, seed=4),
    }
    used = {operation.tensor: tensors[operation.tensor] for operation in operations}
    return Arm(" then ".join(operation.tensor for operation in operations), operations, used)


def arms_of(scope: Scope) -> list[Arm]:
    """Every operation, weak and strong, with and against the direction, alone and together."""
    ablate, ablate2 = Operation("ablate", "ablate", scope=scope), Operation("ablate", "ablate2", scope=scope)
    add, affine = Operation("add", "add", 2, 0.7, scope), Operation("affine", "affine", 2, 0.4, scope)
    return [
        make(add),
        make(replace(add, layer=0, coefficient=-1.5)),
        make(affine),
        make(replace(affine, layer=LAYERS - 1, coefficient=0.0)),
        make(ablate),
        make(replace(ablate, coefficient=0.6)),
        make(ablate2),
        make(replace(ablate2, component="attention")),
        make(replace(ablate, component="mlp")),
        make(add, affine),
        make(affine, add),
        make(add, ablate),
    ]


MIXED = [
    BASELINE,
    *(arm for scope in SCOPES for arm in arms_of(scope)),
    make(Operation("add", "add", 1, 1.0, "prompt"), Operation("add", "add", 1, -2.0, "generated")),
]


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = [3 + 5 * index % 8 for index in range(count)]
    return [torch.randint(0, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def replies(count: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (count, STEPS), generator=torch.Generator().manual_seed(9))


@torch.inference_mode()
def follow(loaded: LoadedModel, rows: Sequence[Sequence[int]], fed: Tensor, *, use_cache: bool) -> Tensor:
    """Logits `[B, STEPS + 1, V]` of the first reply token and after each token that is fed."""
    batch = loaded.batch(rows)
    logits, cache = [], None
    for step in range(STEPS + 1):
        ids = torch.cat([batch.input_ids, fed[:, :step]], dim=1)
        mask = torch.cat([batch.attention_mask, torch.ones_like(fed[:, :step])], dim=1)
        new = slice(-1, None) if use_cache and step else slice(None)
        output = loaded.model(
            input_ids=ids[:, new],
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0)[:, new],
            past_key_values=cache,
            use_cache=use_cache,
        )
        cache = output.past_key_values
        logits.append(output.logits[:, -1])
    return torch.stack(logits, dim=1)


def steered(
    loaded: LoadedModel,
    rows: Sequence[Sequence[int]],
    arms: Sequence[Arm],
    fed: Tensor,
    *,
    use_cache: bool = True,
) -> Tensor:
    with steer(loaded, arms, loaded.batch(rows).attention_mask):
        return follow(loaded, rows, fed, use_cache=use_cache)


def fired(loaded: LoadedModel, arms: Sequence[Arm], *, use_cache: bool = True) -> list[Fired]:
    rows, fed = prompts(len(arms)), replies(len(arms))
    with steer(loaded, arms, loaded.batch(rows).attention_mask) as steering:
        follow(loaded, rows, fed, use_cache=use_cache)
        return steering.fired([STEPS] * len(arms))


def close(found: Any, expected: Any) -> bool:
    """Equal to 1e-5 of the largest number."""
    found, expected = np.asarray(found), np.asarray(expected)
    return found.shape == expected.shape and bool(
        np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    )


def hook_count(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def forged(original: Operation, **words: str) -> Operation:
    """An operation as a file may hold it, past the type checks of the tests."""
    copied = copy.copy(original)
    for name, word in words.items():
        object.__setattr__(copied, name, word)
    return copied
