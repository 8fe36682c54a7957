"""Exact matching of replies with answers, against an independent version of it."""

import random
import re
from pathlib import Path
from typing import Literal

import pytest
import yaml

from steer.artifacts.answers import Answers, read_answers
from steer.errors import SteerError
from steer.judges.exact import ABSTENTIONS, ExactMatching, normalised
from steer.judges.verdicts import UNSCORED, Exchange
from tests.oracles.matching import stands_in, words

Match = Literal["exact", "contains"]
PIECES = (
    "the",
    "a",
    "An",
    "Paris",
    "paris.",
    "New",
    "York,",
    "U.S.",
    "“York”",
    "don't",
    "say",
    "$5",
    "…",
    "no",
)


def _verdict(reply: str, document: tuple[str, ...], memory: tuple[str, ...], match: Match = "exact") -> str:
    return ExactMatching(match).judge([Exchange("q", reply, Answers(document, memory))])[0].verdict


def _texts(count: int, longest: int) -> list[str]:
    rng = random.Random(longest)
    return [" ".join(rng.choices(PIECES, k=rng.randint(1, longest))) for _ in range(count)]


def test_texts_are_normalised_as_the_oracle_does() -> None:
    for text in _texts(300, 6):
        assert normalised(text).split() == words(text)


@pytest.mark.parametrize("match", ["exact", "contains"])
def test_an_answer_is_found_where_the_oracle_finds_it(match: Match) -> None:
    found = 0
    for reply, answer in zip(_texts(2000, 4), _texts(2000, 2), strict=True):
        expected = stands_in(answer, reply, whole=match == "exact")
        found += expected
        assert (_verdict(reply, (answer,), (), match) == "from_document") == expected
        assert (_verdict(reply, (), (answer,), match) == "from_memory") == expected
    assert found > 30


@pytest.mark.parametrize(
    ("reply", "match", "expected"),
    [
        (" The Tarn.", "exact", "from_document"),
        ("the loire", "exact", "from_memory"),
        ("It is the Tarn.", "exact", "other"),
        ("It is the Tarn.", "contains", "from_document"),
        ("The Tarn, formerly the Loire.", "contains", "other"),
        ("Tarnish", "contains", "other"),
        ("The document does not say.", "exact", "abstained"),
        ("I don’t know; perhaps the Tarn?", "contains", "from_document"),
        ("That can't be determined.", "exact", "abstained"),
        ("Unknown", "exact", "abstained"),
        ("Unknownable", "exact", "other"),
        ("", "exact", "other"),
        ("...", "contains", "other"),
    ],
)
def test_replies_have_the_verdict_that_a_reader_gives_them(reply: str, match: Match, expected: str) -> None:
    assert _verdict(reply, ("Tarn", "River Tarn"), ("The Loire",), match) == expected


def test_an_answer_of_both_is_the_documents() -> None:
    for match in ("exact", "contains"):
        assert _verdict("Loire", ("loire",), ("the Loire",), match) == "from_document"  # type: ignore[arg-type]


def test_every_abstention_is_told_and_an_empty_answer_matches_nothing() -> None:
    for phrase in ABSTENTIONS:
        assert _verdict(f"Well, {phrase.upper()}!", ("Tarn",), ()) == "abstained"
    assert _verdict("", ("the", "..."), ("",)) == "other"


def test_what_a_study_orders_to_say_where_there_is_no_answer_is_an_abstention() -> None:
    study = yaml.safe_load(Path("workflow/studies/steermoe-faithfulness.yaml").read_text(encoding="utf-8"))
    ordered = re.findall('say "(.*?)"', study["sets"]["unanswerable"]["instruction"])
    assert ordered == ["unknown", "conflict"]
    for said in ordered:
        for reply in (said, f"{said.title()}.", f"I would say “{said}” here."):
            assert _verdict(reply, (), (), "contains") == "abstained"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Let us see what the document gives.", "other"),
        ("It was the US.", "from_document"),
        ("It was the U.S., as far as is said.", "from_document"),
        ("us", "from_document"),
        ("Yes, it is.", "from_memory"),
        ("It is unknown to us.", "abstained"),
    ],
)
def test_a_short_answer_with_capitals_is_looked_for_as_it_is_written(reply: str, expected: str) -> None:
    assert _verdict(reply, ("United States", "US"), ("yes",), "contains") == expected


def test_a_prompt_without_known_answers_is_unscored() -> None:
    judged = ExactMatching().judge([Exchange("q", "Tarn")])[0]
    assert judged.verdict == UNSCORED
    assert "answers" in judged.reason


def test_the_version_tells_both_ways_of_matching_apart() -> None:
    assert (
        ExactMatching("exact").version
        != ExactMatching("contains").version
        == ExactMatching("contains").version
    )


def test_answers_are_read_or_named_in_an_error() -> None:
    assert read_answers({"text": "x"}, "here") is None
    assert read_answers({"answers": ["a"]}, "here") == Answers(("a",), ())
    assert read_answers({"answers": [], "memory": ["b", "c"]}, "here") == Answers((), ("b", "c"))
    for wrong in ("a", [1], [" "]):
        with pytest.raises(SteerError, match="`memory` is not a list of texts"):
            read_answers({"memory": wrong}, "here")
