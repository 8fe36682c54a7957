"""Keys and names of the configuration: an unknown or missing one is named, with the nearest that is right."""

from typing import Any

import pytest

from steer.config import merge, parse
from steer.errors import SteerError
from tests.configured import NONE, refuses, valid

# What is laid over a valid configuration, and what the error must say.
BAD = {
    "a set to reroute on that is not there": (
        {"selection": {"rerouting": {"induce_on": "nowhere"}}},
        "unknown set `nowhere`",
    ),
    "a ranking to reroute by that is not there": (
        {"arms": {"more": {"operation": "reroute", "ranking": "nowhere", "activated": 1, "deactivated": 0}}},
        "unknown contrast `nowhere`",
    ),
    "a ranking of all detected arms that is not there": (
        {"arms": {"more": {"operation": "reroute"}}, "selection": {"rerouting": {"ranking": "promt"}}},
        "`selection.rerouting.ranking`: unknown contrast `promt`; did you mean `prompt`?",
    ),
    "brackets in a key of the user's": (
        {"scores": {"confidence[0]": 1}},
        "unknown key `scores.confidence[0]`; did you mean `confidence`?",
    ),
    "unknown key at the top": ({"sed": 1}, "unknown key `sed`; did you mean `seed`?"),
    "unknown key in a section": (
        {"scores": {"juge": "truth"}},
        "unknown key `scores.juge`; did you mean `judge`?",
    ),
    "unknown key two sections down": (
        {"selection": {"arditi": {"kl_treshold": 1}}},
        "unknown key `selection.arditi.kl_treshold`; did you mean `kl_threshold`?",
    ),
    "unknown key of a named thing": (
        {"arms": {"ablate": {"polarty": "suppress"}}},
        "unknown key `arms.ablate.polarty`; did you mean `polarity`?",
    ),
    "unknown key of an organism": (
        {"models": {"small": {"organism": {"hiden_size": 8}}}},
        "unknown key `models.small.organism.hiden_size`; did you mean `hidden_size`?",
    ),
    "unknown key of one kind of judge": (
        {"judges": {"phrases": {"mtach": "anywhere"}}},
        "unknown key `judges.phrases.mtach`; did you mean `match`?",
    ),
    "key of another kind of judge": (
        {"judges": {"truth": {"match": "anywhere"}}},
        "unknown key `judges.truth.match`; known: `kind`",
    ),
    "key like no other": ({"zzz": 1}, "unknown key `zzz`; known: `activations`"),
    "missing key": ({"sets": {"new": {"label": "harmful"}}}, "missing key `sets.new.source`"),
    "missing key of an arm": ({"arms": {"new": {}}}, "missing key `arms.new.operation`"),
    "missing kind": ({"judges": {"new": {}}}, "missing key `judges.new.kind`"),
    "unknown kind": (
        {"judges": {"new": {"kind": "gramar"}}},
        "`judges.new.kind`: unknown `gramar`; did you mean `grammar`?",
    ),
    "unknown operation": (
        {"arms": {"new": {"operation": "ad"}}},
        "`arms.new.operation`: unknown `ad`; did you mean `add`?",
    ),
    "unknown set to answer": (
        {"generation": {"sets": ["harmfull"]}},
        "`generation.sets.0`: unknown set `harmfull`; did you mean `harmful`?",
    ),
    "unknown set of the contrast": (
        {"contrast": {"harmless": "nice"}},
        "unknown set `nice`; known: `harmful`",
    ),
    "unknown judge": ({"scores": {"judge": "thruth"}}, "unknown judge `thruth`; did you mean `truth`?"),
    "unknown judge of trials": (
        {"selection": {"strength": {"judge": "phrase"}}},
        "unknown judge `phrase`; did you mean `phrases`?",
    ),
    "unknown arm": (
        {"arms": {"new": {"operation": "add", "like": "ablat"}}},
        "`arms.new.like`: unknown arm `ablat`; did you mean `ablate`?",
    ),
    "bad name": ({"arms": {"Bad Name": NONE}}, "`arms.Bad Name`: a name has lower-case letters"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named(case: str) -> None:
    refuses(*BAD[case])


SECRET = "sk-0123456789"
SERVER = {"kind": "server", "base_url": "https://nowhere.example/v1", "model": "some"}


@pytest.mark.parametrize(
    "wrong",
    [{"key": SECRET}, {"key": [SECRET]}, {"extra": SECRET}, {"extra": {"token": {SECRET}}}],
    ids=["key", "key in a list", "extra", "in extra"],
)
def test_what_may_be_a_key_is_never_shown(wrong: dict[str, Any]) -> None:
    with pytest.raises(SteerError) as caught:
        parse(merge(valid(), {"judges": {"far": {**SERVER, **wrong}}}))
    assert f"`judges.far.{next(iter(wrong))}" in caught.value.cause
    assert SECRET not in str(caught.value)


def test_all_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(SteerError, match=r"`scores\.juge`.*`sed`"):
        parse(merge(valid(), {"sed": 1, "scores": {"juge": "truth"}}))


def test_no_baseline_is_an_error() -> None:
    with pytest.raises(SteerError, match="missing `baseline"):
        parse({**valid(), "arms": {"new": {"operation": "ablate"}}})


def test_no_model_is_an_error() -> None:
    with pytest.raises(SteerError, match="`models`: has 0 entries and needs at least 1"):
        parse({**valid(), "models": {}})
