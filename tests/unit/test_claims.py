"""What is said of an arm against its controls: the rule, its direction, and which arms are whose controls."""

from collections.abc import Mapping
from typing import Any

import pytest
from pandas import DataFrame

from steer.artifacts.answers import Answers
from steer.artifacts.prompts import Prompt
from steer.claims import NO_EFFECT, SHARED, SPECIFIC, UNCONTROLLED, claim, possible
from steer.config import load
from steer.controls import Compared, compared
from steer.figures.summary import claimed
from steer.judges.verdicts import Verdict
from steer.rates import Method, differences
from steer.told import Told

PROMPTS = 30
METHOD = Method(resamples=400)
SUPPRESS = Compared("suppress", ("matched", "bottom"), experts=True, locates=True)


def answered(count: int, *, unscored: int = 0) -> dict[str, Told]:
    """Verdicts of prompts, of which the first `count` are answered and the last `unscored` unknown."""
    found: dict[str, Told] = {}
    for at in range(PROMPTS):
        known: Verdict = "full_response" if at < count else "refusal"
        found[f"p{at:02}"] = ("unscored" if at >= PROMPTS - unscored else known,)
    return found


def said(arm: Compared, verdicts: Mapping[str, Mapping[str, Told]]) -> dict[str, Any]:
    wanted = "full_response" if arm.polarity == "suppress" else "refusal"
    effect = differences(verdicts["arm"], verdicts["baseline"], METHOD, "set")
    return claim(arm, "arm", effect[f"{wanted}_difference_low"], verdicts, METHOD, "set", "judge")


@pytest.mark.parametrize(
    ("arm", "matched", "bottom", "expected"),
    [
        (28, 2, 0, SPECIFIC),
        (28, 27, 0, SHARED),  # One control that does as much is enough,
        (28, 0, 27, SHARED),  # whichever it is,
        (20, 29, 0, SHARED),  # and so is one that does more.
        (1, 0, 0, NO_EFFECT),
        (0, 28, 0, NO_EFFECT),
    ],
)
def test_an_arm_is_specific_if_it_beats_the_unsteered_model_and_every_control(
    arm: int, matched: int, bottom: int, expected: str
) -> None:
    counts = {"baseline": 0, "arm": arm, "matched": matched, "bottom": bottom}
    row = said(SUPPRESS, {name: answered(count) for name, count in counts.items()})
    closest = max(matched, bottom)
    assert row["claim"] == expected
    assert row["control"] == ("bottom" if bottom >= matched else "matched")
    assert row["control_difference"] == pytest.approx((arm - closest) / PROMPTS)
    assert row["control_difference_low"] <= row["control_difference"] <= row["control_difference_high"]


def test_an_arm_that_strengthens_succeeds_by_refusals() -> None:
    arm = Compared("induce", ("matched",), experts=True, locates=True)
    verdicts = {"baseline": answered(30), "arm": answered(2), "matched": answered(30)}
    assert said(arm, verdicts)["claim"] == SPECIFIC
    assert (
        said(Compared("suppress", ("matched",), experts=True, locates=True), verdicts)["claim"] == NO_EFFECT
    )


def test_without_a_control_that_was_run_nothing_is_claimed() -> None:
    verdicts = {"baseline": answered(0), "arm": answered(30)}
    assert said(SUPPRESS, verdicts) == {"claim": UNCONTROLLED}


def test_prompts_that_either_side_has_no_verdict_on_are_left_out() -> None:
    verdicts = {"baseline": answered(0), "arm": answered(30), "matched": answered(30, unscored=20)}
    row = said(SUPPRESS, verdicts)
    assert (row["claim"], row["control_difference"]) == (SHARED, 0)


@pytest.mark.parametrize(
    ("answers", "wanted", "expected"),
    [
        (Answers(("Velm",), ()), "from_document", True),
        (Answers(("Velm",), ()), "from_memory", False),
        (Answers((), ("Pell",)), "from_document", False),
        (Answers((), ("Pell",)), "from_memory", True),
        (None, "from_memory", False),
        (None, "refusal", True),
    ],
)
def test_a_verdict_about_an_answer_is_possible_where_one_is_known(
    answers: Answers | None, wanted: Verdict, expected: bool
) -> None:
    prompts = [Prompt("p", "text", "harmless", "test", answers=one) for one in (None, answers)]
    assert possible(wanted, prompts) == expected


def test_every_arm_on_experts_has_the_controls_that_the_settings_give_it() -> None:
    config = load("config.yaml")
    arms, drawn = {name: arm.model_dump(mode="json") for name, arm in config.arms.items()}, config.pools
    found = {name: (one.polarity, set(one.controls)) for name, one in compared(arms).items() if one.experts}
    assert found == {
        "expert_induce": ("induce", {"expert_induce_random", "expert_induce_matched"}),
        "expert": ("suppress", {*drawn["expert_random"], *drawn["expert_matched"], "expert_bottom"}),
        "experts": ("suppress", set()),
        "reroute_induce": ("induce", {"reroute_induce_random"}),
        "reroute": ("suppress", {*drawn["reroute_random"], "reroute_bottom"}),
        "bias_router": ("suppress", set()),
    }
    assert set(compared(arms)) - set(found) == {"add", "ablate"}
    # A push along an expert's direction does not say where refusal is.
    locating = {name for name, one in compared(arms).items() if one.locates}
    assert locating == {"reroute", "reroute_induce", "bias_router"}


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({}, "No arm takes experts away"),
        ({"reroute": SHARED, "expert": SPECIFIC}, "No expert is claimed"),
        ({"reroute": SPECIFIC, "expert": SPECIFIC}, "do: reroute (harmful). No other"),
    ],
)
def test_the_summary_claims_experts_by_arms_that_take_them_away_alone(
    claims: dict[str, str], said: str
) -> None:
    arms = {name: arm.model_dump(mode="json") for name, arm in load("config.yaml").arms.items()}
    rows = [{"arm": arm, "set": "harmful", "claim": claims.get(arm, "")} for arm in arms]
    assert said in claimed(DataFrame(rows), {"arms": arms})


def test_rerouted_experts_that_are_named_have_no_counted_controls() -> None:
    arms = {name: arm.model_dump(mode="json") for name, arm in load("config.yaml").arms.items()}
    named = arms["reroute"] | {"deactivate": [[1, 2]]}
    assert compared({**arms, "reroute": named})["reroute"].controls == ()


def test_a_control_of_another_ranking_is_none() -> None:
    arms = {name: arm.model_dump(mode="json") for name, arm in load("config.yaml").arms.items()}
    named = {**arms["reroute"], "ranking": "prompt"}
    other = {**arms["reroute"], "ranking": "response", "activated": 1, "deactivated": 1}
    own = {**other, "experts": "random"}
    found = compared({**arms, "reroute": named, "other": other, "own": own}, "prompt")
    assert "reroute_bottom" in found["reroute"].controls
    assert "own" not in found["reroute"].controls
    assert found["other"].controls == ("own",)
    assert found["reroute_induce"].controls == ("reroute_induce_random",)
    counted = {**other, "activated": None, "deactivated": None}
    assert compared({**arms, "other": counted}, "prompt")["other"].controls == ()
