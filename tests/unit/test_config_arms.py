"""Arms of the configuration: what an arm asks for and can't have, what is taken apart, and arms of seeds."""

from typing import Any

import pytest

from steer.config import merge, parse
from steer.errors import SteerError
from tests.configured import NONE, refuses
from tests.figure_inputs.study import config

CONTROL = {"operation": "add", "direction": "random", "like": "ablate"}
# What is laid over a valid configuration, and what the error must say.
BAD = {
    "a ranking that no numbers are chosen for": (
        {
            "contrasts": {"other": {"first": "harmless", "second": "harmful"}},
            "selection": {"rerouting": {"ranking": "other"}},
            "arms": {"more": {"operation": "reroute", "ranking": "prompt", "activated": 1}},
        },
        "numbers are chosen for `other`, not for `prompt`; give `activated` and `deactivated`",
    ),
    "too few others for random experts": (
        {"arms": {"more": {"operation": "reroute", "experts": "random", "activated": 9, "deactivated": 8}}},
        "`arms.more`: wants 17 others than the 17 that it stands for, and model `planted` has 32",
    ),
    "a control of the other polarity": (
        {"arms": {"new": {**CONTROL, "polarity": "induce"}}},
        "`arms.new.polarity`: is induce, and `ablate`, whose dose it copies, is suppress",
    ),
    "an arm without settings": ({"arms": {"new": None}}, "`arms.new`: wants settings of its own"),
    "an expert that an embedded model has not": (
        {"arms": {"new": {"operation": "mask_experts", "experts": [[0, 1], [9, 3]]}}},
        "`arms.new.experts`: [9, 3], but model `planted` has layers 0 to 3 with experts 0 to 7",
    ),
    "a layer that an embedded model has not": (
        {"arms": {"new": {"operation": "add", "layer": 4}}},
        "`arms.new.layer`: 4, but model `planted` has layers 0 to 3",
    ),
    "a position that is not recorded": (
        {"arms": {"new": {"operation": "add", "position": -6}}},
        "`arms.new.position`: -6, but the last 5 prompt tokens are recorded",
    ),
    "experts that are no pairs": (
        {"arms": {"new": {"operation": "mask_experts", "experts": [1, 2]}}},
        "`arms.new.experts`: fits none of its forms. `[layer, expert]` pairs",
    ),
    "more experts masked than a token can do without": (
        {"arms": {"new": {"operation": "mask_experts", "experts": [[1, expert] for expert in range(7)]}}},
        "`arms.new.experts`: 7 of 8 experts of layer 1 are avoided, and every token of `planted` needs 2",
    ),
    "more experts rerouted from than a token can do without": (
        {"arms": {"new": {"operation": "reroute", "deactivate": [[1, expert] for expert in range(7)]}}},
        "`arms.new.deactivate`: 7 of 8 experts of layer 1 are avoided",
    ),
    "more experts than there are": (
        {"arms": {"new": {"operation": "reroute", "activated": 30, "deactivated": 3}}},
        "`arms.new`: reroutes 33 experts, and model `planted` has 32",
    ),
    "an arm like one without experts": (
        {"arms": {"new": {"operation": "expert_add", "experts": "matched", "like": "ablate"}}},
        "`arms.new.like`: `ablate` has no experts to copy",
    ),
    "position from the start": (
        {"arms": {"new": {"operation": "add", "position": 2}}},
        "`arms.new.position`: is 2; must be at most -1",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named(case: str) -> None:
    refuses(*BAD[case])


def test_a_control_of_experts_that_are_masked_can_be_matched_to_them() -> None:
    arms = {
        "named": {"operation": "mask_experts", "experts": [[1, 3]]},
        "others": {"operation": "mask_experts", "experts": "matched", "like": "named"},
    }
    assert "others" in parse(merge(config().model_dump(mode="json"), {"arms": arms})).arms


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ({"of": "baseline"}, "edits nothing that could be taken apart"),
        ({"of": "half"}, "edits nothing that could be taken apart"),
        ({"of": "induced"}, "give it `polarity: induce` too"),
        ({"of": "halff"}, "unknown arm `halff`; did you mean `half`"),
    ],
)
def test_an_arm_that_can_not_be_taken_apart_is_refused(arm: dict[str, Any], said: str) -> None:
    half = {"operation": "replay_routing", "of": "whole", "part": "edits"}
    induced = {"operation": "add", "polarity": "induce"}
    arms = {"whole": {"operation": "ablate"}, "half": half, "induced": induced}
    with pytest.raises(SteerError, match=said):
        config(arms={"baseline": NONE, **arms, "other": {**half, **arm}})


DRAWN = {"operation": "add", "direction": "random", "like": "add"}
PLAIN = {"baseline": NONE, "add": {"operation": "add"}}


def test_an_arm_of_several_seeds_is_one_for_each() -> None:
    found = config(arms={**PLAIN, "random": {**DRAWN, "seed": 4, "seeds": 3}})
    assert [*found.arms] == ["baseline", "add", "random", "random-5", "random-6"]
    assert [found.arms[name].seed for name in found.pools["random"]] == [4, 5, 6]  # type: ignore[union-attr]
    for name in ("harmful", "harmless"):
        assert found.answering(name) == [*found.arms]
    assert found.answering("everyday") == ["baseline", "add", "random"]
    assert parse(found.model_dump(mode="json")) == found


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ({"random": {**DRAWN, "seeds": 2}, "random-1": DRAWN}, "makes an arm `random-1`, and there is one"),
        ({"plain": {"operation": "add", "seeds": 2}}, "are for arms with random directions or experts"),
        ({"others": {**DRAWN, "experts": "matched", "seeds": 5}}, "is 5, and `matched` goes through the 4"),
        ({"random": {**DRAWN, "seeds": 0}}, "is 0; must be at least 1"),
        ({"random": {**DRAWN, "seeds": "two"}}, "is 'two', not a whole number"),
    ],
)
def test_seeds_that_make_no_sense_are_errors(arms: dict[str, Any], said: str) -> None:
    with pytest.raises(SteerError, match=said):
        config(arms={**PLAIN, **arms})
