"""Log-likelihoods of given replies, against the slow way: one row, one token at a time, no padding."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from steer.errors import SteerError
from steer.models import teacher_forcing
from steer.models.interventions import Arm, Operation, Scope
from steer.models.loading import LoadedModel
from steer.models.steering import steer
from steer.models.teacher_forcing import Forced, likelihoods
from tests.tiny import HIDDEN

ROWS = [
    Forced((65, 66, 67), (68, 69, 70, 71), "a"),
    Forced((90,), (68,), "b"),
    Forced((80, 81, 82, 83, 84, 85), (70, 71), "c"),
    Forced((80, 81, 82, 83, 84, 85), (70, 99), "d"),
]


def _add(scope: Scope, coefficient: float = 1.0) -> Arm:
    vector = torch.linspace(-2, 2, HIDDEN)
    operation = Operation("add", "v", layer=1, coefficient=coefficient, scope=scope)
    return Arm("add", (operation,), {"v": vector})


@torch.inference_mode()
def _slowly(loaded: LoadedModel, arm: Arm, row: Forced) -> tuple[float, bool]:
    """Every token by a pass of its own over what is before it, the prompt's width given to the arm."""
    total, greedy = 0.0, True
    for place, token in enumerate(row.reply):
        ids = torch.tensor([[*row.prompt, *row.reply[:place]]])
        with steer(loaded, [arm], torch.ones(1, len(row.prompt), dtype=torch.long)):
            logits = loaded.model(input_ids=ids, use_cache=False).logits[0, -1].double()
        total += float(torch.log_softmax(logits, dim=-1)[token])
        greedy &= int(logits.argmax()) == token
    return total, greedy


@pytest.mark.parametrize("scope", ["prompt", "generated", "all"])
def test_the_likelihood_is_the_product_over_tokens_one_by_one(
    tiny: Callable[[str], LoadedModel], any_family: str, scope: Scope
) -> None:
    loaded = tiny(any_family)
    for arm in (Arm("baseline"), _add(scope)):
        found = likelihoods(loaded, arm, ROWS, batch_size=3)
        for row, one in zip(ROWS, found, strict=True):
            total, greedy = _slowly(loaded, arm, row)
            assert one.total == pytest.approx(total, abs=2e-3), (arm.name, row)
            assert one.greedy == greedy


def test_the_scope_decides_what_a_likelihood_feels(tiny: Callable[[str], LoadedModel]) -> None:
    loaded = tiny("olmoe")
    base, prompt, generated, everything = (
        likelihoods(loaded, arm, ROWS, 4)
        for arm in (Arm("baseline"), _add("prompt"), _add("generated"), _add("all"))
    )
    # Of a reply of one token nothing is read, so an edit of generated tokens can't touch it.
    assert generated[1].total == pytest.approx(base[1].total, abs=1e-6)
    assert prompt[1].total == pytest.approx(everything[1].total, abs=1e-6)
    assert abs(prompt[1].total - base[1].total) > 1e-3
    assert len({found[0].total for found in (base, prompt, generated, everything)}) == 4


@pytest.mark.parametrize("kind", ["add", "replay"])
def test_an_arm_of_strength_zero_gives_the_same_bits(tiny: Callable[[str], LoadedModel], kind: str) -> None:
    loaded = tiny("olmoe")
    zero = _add("all", 0.0)
    if kind == "replay":
        # Its twin is the unsteered run, so it replays the very routing that it would have had.
        zero = Arm("replay", (Operation("replay_routing"),), {})
    found = likelihoods(loaded, zero, ROWS, 4)
    base = likelihoods(loaded, Arm("baseline"), ROWS, 4)
    if kind == "add":
        assert found == base
    assert [one.total for one in found] == pytest.approx([one.total for one in base], abs=1e-4)


def test_numbers_that_overflow_are_an_error(tiny: Callable[[str], LoadedModel]) -> None:
    with pytest.raises(SteerError, match="arm `add`, prompt `a`: gives logits that are infinite or not a"):
        likelihoods(tiny("olmoe"), _add("prompt", 3e38), ROWS[:1], 2)
    with pytest.raises(SteerError, match="arm `add`: gives"):
        likelihoods(tiny("olmoe"), _add("prompt", 3e38), [replace(ROWS[0], name="")], 2)


def test_rows_that_differ_in_the_last_token_share_a_pass(
    tiny: Callable[[str], LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, rows = tiny("olmoe"), [Forced((65, 66), (70, last), "") for last in range(60, 80)]
    seen = []
    forward = teacher_forcing._logits
    monkeypatch.setattr(
        teacher_forcing, "_logits", lambda *given: seen.append(len(given[2])) or forward(*given)
    )
    found = likelihoods(loaded, Arm("baseline"), rows, 8)
    assert seen == [1]
    assert sum(one.greedy for one in found) <= 1
    assert len({one.total for one in found}) == 20


def test_logits_of_a_large_vocabulary_are_made_in_parts(
    tiny: Callable[[str], LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tiny("olmoe")
    whole = likelihoods(loaded, Arm("baseline"), ROWS, 4)
    monkeypatch.setattr(teacher_forcing, "MOST_LOGITS", 1)
    monkeypatch.setattr(teacher_forcing, "CHUNK", 3)
    parts = likelihoods(loaded, Arm("baseline"), ROWS, 4)
    assert [one.total for one in parts] == pytest.approx([one.total for one in whole], abs=1e-4)
    assert all(math.isfinite(one.total) and one.total < 0 for one in parts)
