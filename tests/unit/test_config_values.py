"""Values of the configuration: one that makes no sense is named by its key."""

import pytest

from tests.configured import refuses

PAIR = {"source": "grammar", "label": "harmful", "train": 1}
# What is laid over a valid configuration, and what the error must say.
BAD = {
    "a judge of something else": (
        {"behaviour": "faithfulness"},
        "tells refusal, and the `behaviour` of the study is faithfulness",
    ),
    "a device of a judge that is none": (
        {"judges": {"new": {"kind": "likelihood", "path": "folder", "device": "gpu"}}},
        "`judges.new.device`: is 'gpu'; which is not of the form",
    ),
    "a side of pairs that the other side knows nothing of": (
        {
            "sets": {
                "refusing": {**PAIR, "target": "refusal", "equal_tokens": "complying"},
                "complying": {**PAIR, "target": "compliance"},
            }
        },
        "`sets.complying.equal_tokens` must be `refusing`: the two are sides",
    ),
    "equal counts of prompts": (
        {"sets": {"harmful": {"equal_tokens": "harmless"}}},
        "`equal_tokens` is for sets that are counted on replies",
    ),
    "number out of range": (
        {"scores": {"confidence": 95}},
        "`scores.confidence`: is 95; must be less than 1",
    ),
    "an address that is none": (
        {"judges": {"new": {"kind": "server", "base_url": "nowhere", "model": "some"}}},
        "`judges.new.base_url`: is 'nowhere'; which is not of the form ^https?://",
    ),
    "a word that is not offered": (
        {"sets": {"new": {"source": "grammar", "label": "evil"}}},
        "`sets.new.label`: is 'evil'; use 'harmful' or 'harmless'",
    ),
    "a device that is none": (
        {"models": {"other": {"path": "some/model", "device": "gpu"}}},
        "`models.other.device`: is 'gpu'; which is not of the form",
    ),
    "a blank refusal opener": (
        {"models": {"other": {"path": "some/model", "refusal_openers": ["I", " "]}}},
        "`models.other`: `refusal_openers` holds a blank one",
    ),
    "negative seed": ({"seed": -1}, "`seed`: is -1; must be at least 0"),
    "not a number": ({"seed": "zero"}, "`seed`: is 'zero', not a whole number"),
    "not a section": ({"models": 3}, "`models`: wants settings of its own"),
    "two origins of a model": (
        {"models": {"both": {"path": "folder", "organism": {}}}},
        "`models.both`: give exactly one of `organism`, `openbook`, `upcycle` and `path`",
    ),
    "no origin of a model": (
        {"models": {"neither": {}}},
        "`models.neither`: give exactly one of `organism`, `openbook`, `upcycle` and `path`",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named(case: str) -> None:
    refuses(*BAD[case])
