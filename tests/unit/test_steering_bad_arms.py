"""Arms on the residual stream that can't fire are refused before anything runs; no hook outlives a block."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from steer.errors import SteerError
from steer.models.interventions import Arm, Operation, unit
from steer.models.steering import steer
from tests.steering import (
    BASELINE,
    MIXED,
    Tiny,
    follow,
    forged,
    hook_count,
    prompts,
    random,
    replies,
    steered,
)
from tests.tiny import HIDDEN, LAYERS


def changed(operation: Operation, tensor: Tensor | None) -> Arm:
    return Arm("mine", (operation,), {} if tensor is None else {operation.tensor: tensor})


ADD, ABLATE, AFFINE = Operation("add", "t", 1), Operation("ablate", "t"), Operation("affine", "t", 1)
VECTOR, PAIR = random(HIDDEN, seed=6), random(2, HIDDEN, seed=7)
BAD_ARMS: list[tuple[str, Arm, str]] = [
    (
        "too deep",
        changed(replace(ADD, layer=LAYERS), VECTOR),
        "layer 4 is not one of the 4 layers(.|\n)*0 to 3",
    ),
    ("negative", changed(replace(ADD, layer=-1), VECTOR), "layer -1 is not one of the 4 layers"),
    ("no layer", changed(replace(AFFINE, layer=None), PAIR), "layer None is not one of the 4 layers"),
    ("layer of ablate", changed(replace(ABLATE, layer=1), unit(VECTOR)[None]), "leave the layer out"),
    ("narrow", changed(ADD, VECTOR[:-1]), r"tensor `t` is \[31\], expected \[d\] with the width d = 32"),
    ("wide", changed(ABLATE, torch.eye(HIDDEN + 1)[:1]), r"tensor `t` is \[1, 33\], expected \[k, d\]"),
    ("rows", changed(ADD, VECTOR[None]), r"tensor `t` is \[1, 32\], expected \[d\]"),
    ("no rows", changed(ABLATE, unit(VECTOR)), r"tensor `t` is \[32\], expected \[k, d\]"),
    ("empty", changed(ABLATE, VECTOR[None][:0]), r"tensor `t` is \[0, 32\], expected \[k, d\]"),
    ("triple", changed(AFFINE, random(3, HIDDEN, seed=8)), r"tensor `t` is \[3, 32\], expected \[2, d\]"),
    ("zero", changed(ADD, VECTOR * 0), "zero or not finite(.|\n)*another layer"),
    ("zero basis", changed(ABLATE, VECTOR[None] * 0), "zero or not finite"),
    ("zero direction", changed(AFFINE, torch.stack([VECTOR * 0, VECTOR])), "zero or not finite"),
    ("nan", changed(ADD, VECTOR * math.nan), "zero or not finite"),
    ("infinite mean", changed(AFFINE, torch.stack([VECTOR, VECTOR * math.inf])), "zero or not finite"),
    ("long basis", changed(ABLATE, VECTOR[None]), "not orthonormal(.|\n)*orthonormal_basis"),
    ("skew basis", changed(ABLATE, unit(torch.stack([VECTOR, VECTOR + PAIR[0]]))), "not orthonormal"),
    ("no tensor", changed(ADD, None), "has no tensor `t`(.|\n)*build the arm again"),
    ("unknown", changed(forged(ADD, operation="twist"), VECTOR), "`twist` is not a known(.|\n)*add, ablate"),
    ("scope", changed(forged(ADD, scope="reply"), VECTOR), "`reply` is not a known(.|\n)*prompt, generated"),
    ("nan times", changed(replace(ADD, coefficient=math.nan), VECTOR), "coefficient is nan"),
    ("twice", Arm("mine", (ADD, ADD), {"t": VECTOR}), "two `add` operations meet at residual 1"),
]


@pytest.mark.parametrize(
    ("arm", "message"), [case[1:] for case in BAD_ARMS], ids=[case[0] for case in BAD_ARMS]
)
def test_an_arm_that_can_not_fire_is_an_error_before_anything_runs(
    arm: Arm, message: str, tiny: Tiny
) -> None:
    loaded = tiny("olmoe")
    before = hook_count(loaded.model)
    with (
        pytest.raises(SteerError, match=rf"arm `mine`(.|\n)*{message}"),
        steer(loaded, [BASELINE, arm], torch.ones(2, 4, dtype=torch.long)),
    ):
        raise AssertionError
    assert hook_count(loaded.model) == before


def test_an_arm_is_needed_for_every_row(tiny: Tiny) -> None:
    with (
        pytest.raises(ValueError, match="1 arms for 2 rows"),
        steer(tiny("olmoe"), [MIXED[1]], torch.ones(2, 4).long()),
    ):
        raise AssertionError


def test_no_hook_outlives_the_block_whatever_happens_in_it(any_family: str, tiny: Tiny) -> None:
    loaded = tiny(any_family)
    before = hook_count(loaded.model)
    bare = follow(loaded, prompts(2), replies(2), use_cache=True)
    steered(loaded, prompts(2), MIXED[5:7], replies(2))

    def body() -> None:
        with steer(loaded, MIXED[5:7], loaded.batch(prompts(2)).attention_mask):
            assert hook_count(loaded.model) > before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        body()
    assert hook_count(loaded.model) == before
    assert torch.equal(follow(loaded, prompts(2), replies(2), use_cache=True), bare)
