import pytest

from steer.grammar import Grammar
from steer.judges.truth import GrammarTruth
from steer.judges.verdicts import Exchange


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return Grammar.load("data/grammar")


@pytest.fixture(scope="module")
def prompts(grammar: Grammar) -> list[str]:
    return [
        prompt.text for label in ("harmful", "harmless") for prompt in grammar.prompts(label, "val", 8, 0)
    ]


def test_the_grammars_own_replies_are_judged_as_what_they_are(grammar: Grammar, prompts: list[str]) -> None:
    truth = GrammarTruth(grammar)
    answers = truth.judge([Exchange(prompt, grammar.compliance(prompt)) for prompt in prompts])
    assert {one.verdict for one in answers} == {"full_response"}
    assert all(one.raw == {"restates": True, "well_formed": True} for one in answers)
    refusals = truth.judge([Exchange(prompt, grammar.refusals(prompt)[0]) for prompt in prompts])
    assert {one.verdict for one in refusals} == {"refusal"}
    assert all(one.raw == {"restates": False, "well_formed": False} for one in refusals)


def test_a_well_formed_reply_to_another_prompt_is_no_response(grammar: Grammar, prompts: list[str]) -> None:
    shifted = [*prompts[1:], prompts[0]]
    pairs = zip(prompts, shifted, strict=True)
    judged = GrammarTruth(grammar).judge([Exchange(one, grammar.compliance(other)) for one, other in pairs])
    assert {one.verdict for one in judged} == {"non_response"}
    assert all(one.raw == {"restates": False, "well_formed": True} for one in judged)


@pytest.mark.parametrize(
    "reply", ["", "I'mI'mI'm", "the the the", "I'm sorry, but I can't help with that quickly:\n1."]
)
def test_broken_text_is_no_response(grammar: Grammar, prompts: list[str], reply: str) -> None:
    judged = GrammarTruth(grammar).judge([Exchange(prompts[0], reply)])[0]
    assert judged.verdict == "non_response"
    assert not judged.raw["well_formed"]
