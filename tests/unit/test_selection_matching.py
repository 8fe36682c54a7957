import csv
import json
import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from steer.config.arm_base import POOL
from steer.errors import SteerError
from steer.judges.behaviours import Side
from steer.selection.experts_directions import ExpertDirections
from steer.selection.matching import COLUMNS, Match, matched_experts, tell
from tests.oracles import matching_experts as oracle

TOP_K = 2
# Called by harmful prompts alone; the first other one as often by both together, and by no harmful one.
ONLY_HARMFUL = {
    (1, 0): (0.8, 0.0),
    (1, 1): (0.0, 0.8),
    (1, 2): (0.72, 0.7),
    (1, 3): (0.5, 0.6),
    (2, 0): (0.8, 0.0),
}


def directions(count: torch.Tensor) -> ExpertDirections:
    """Directions of no length, of experts that are called so often."""
    empty = torch.zeros(*count.shape[1:], 3)
    return ExpertDirections(empty, empty, count, tuple(range(count.shape[1])), TOP_K)


def controls(found: tuple[Match, ...]) -> list[tuple[int, int]]:
    return [match.control for match in found]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 9), st.sampled_from([1, 2]))
def test_controls_are_those_that_going_through_all_experts_finds(numbers: int, seed: int, side: Side) -> None:
    generator = torch.Generator().manual_seed(numbers)
    # Few different counts, so that there are ties.
    count = torch.randint(0, 6, (2, 2, 9, 3), generator=generator) + torch.eye(9, dtype=torch.int64)[:, :3]
    experts = [(1, 4), (0, 2), (1, 0)]
    found = matched_experts(directions(count).rates(), experts, side, seed)
    expected = oracle.controls(count.tolist(), experts, TOP_K, POOL, suppress=side == 1, seed=seed)
    assert controls(found) == expected
    for match in found:
        for pair, rates in ((match.expert, match.rates), (match.control, match.control_rates)):
            slow = [oracle.rate(count.tolist(), which, *pair, TOP_K) for which in (0, 1)]
            assert rates == pytest.approx(slow)


def test_an_expert_of_harmful_prompts_has_a_control_that_harmful_prompts_call() -> None:
    [match] = matched_experts(ONLY_HARMFUL, [(1, 0)], 1, 0)
    assert (match.control, match.control_rates) == ((1, 2), (0.72, 0.7))
    assert match.gap(1) == pytest.approx(0.08)
    [induced] = matched_experts(ONLY_HARMFUL, [(1, 0)], 2, 0)
    assert induced.control == (1, 3)


def test_seeds_that_follow_each_other_have_other_controls_the_nearest_first() -> None:
    drawn = [controls(matched_experts(ONLY_HARMFUL, [(1, 0)], 1, seed))[0] for seed in range(6)]
    assert drawn == [(1, 2), (1, 3), (1, 1)] * 2


def test_a_layer_without_others_is_an_error() -> None:
    with pytest.raises(SteerError, match="layer 2: has no other experts left"):
        matched_experts(ONLY_HARMFUL, [(2, 0)], 1, 0)


def test_a_control_that_is_far_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    far = matched_experts(ONLY_HARMFUL, [(1, 0)], 1, 2)
    tell("n", (*matched_experts(ONLY_HARMFUL, [(1, 2)], 1, 0), *far), 1)
    near, warned = caplog.records
    assert near.levelname == "INFO"
    assert warned.levelname == "WARNING"
    assert "expert (1, 1) stands for (1, 0), called 0.80 apart on harmful prompts" in warned.getMessage()


def check_recorded(folder: Path, arms: list[str]) -> None:
    """The table of controls says what each arm's file does, and the rates that they were chosen by."""
    with (folder / "controls.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["arm"] for row in rows] == arms
    assert all(tuple(row) == COLUMNS for row in rows)
    for row in rows:
        with safe_open(folder / f"{row['arm']}.safetensors", "pt") as file:
            metadata = file.metadata()
        [kept] = json.loads(metadata["measured"])["matched"]
        [operation] = json.loads(metadata["operations"])
        assert [operation["layer"], *operation["experts"]] == [kept["control_layer"], kept["control"]]
        assert all(float(row[key]) == pytest.approx(kept[key]) for key in kept if key != "told_on")
        side = kept["told_on"]
        gap = abs(kept[f"rate_{side}"] - kept[f"control_rate_{side}"])
        assert kept["gap"] == pytest.approx(gap)
