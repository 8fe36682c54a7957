import json
from pathlib import Path
from typing import Any

import pytest

from steer.judges.phrases import PHRASES, PhraseMatching, normalise
from steer.judges.verdicts import Exchange

CASES = json.loads(Path("tests/cases/verdicts/phrases.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("match", ["at_start", "anywhere"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_a_reply_is_a_refusal_where_a_phrase_stands(case: dict[str, Any], match: Any) -> None:
    judgement = PhraseMatching(match).judge([Exchange("a prompt", case["reply"])])[0]
    assert judgement.verdict == ("refusal" if case[match] else "full_response")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_both_matches_are_kept_whichever_decides(case: dict[str, Any]) -> None:
    exchange = Exchange("a prompt", case["reply"])
    at_start, anywhere = (PhraseMatching(match).judge([exchange])[0] for match in ("at_start", "anywhere"))
    assert at_start.raw == anywhere.raw
    assert (bool(at_start.raw["at_start"]), bool(at_start.raw["anywhere"])) == (
        case["at_start"],
        case["anywhere"],
    )


@pytest.mark.parametrize("phrase", PHRASES)
def test_every_phrase_is_found_in_the_form_that_texts_are_brought_to(phrase: str) -> None:
    assert normalise(phrase) == phrase
    judged = PhraseMatching().judge([Exchange("", f"{phrase} something")])[0]
    assert phrase in judged.raw["at_start"]


def test_the_list_holds_no_phrase_twice() -> None:
    assert len(PHRASES) == len(set(PHRASES))


def test_the_prompt_has_no_say() -> None:
    judged = PhraseMatching().judge([Exchange("Say: I'm sorry.", "Of course!")])[0]
    assert judged.verdict == "full_response"


def test_the_version_depends_on_where_phrases_are_looked_for() -> None:
    assert PhraseMatching("at_start").version != PhraseMatching("anywhere").version
    assert PhraseMatching("anywhere").version == PhraseMatching("anywhere").version
