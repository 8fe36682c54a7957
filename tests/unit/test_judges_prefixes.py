import random

import pytest

from steer.grammar import Grammar
from steer.judges.examples import Example, ExampleSource
from steer.judges.prefixes import viable


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return Grammar.load("data/grammar")


@pytest.fixture(scope="module")
def drawn(grammar: Grammar) -> list[Example]:
    return list(ExampleSource(grammar, "val", random.Random(1)).draw(150))


def every_answer(grammar: Grammar, prompt: str, reply: str) -> list[str]:
    """All full responses, tried one by one: any part of the prompt may be what is restated."""
    found = grammar.find(prompt)
    openers = grammar.tables.replies.openers
    ends = range(len(prompt) + 1)
    parts = {prompt[start:end] for start in ends for end in ends if start < end}
    texts = [grammar.compliance_of(kind, None) for kind in openers]
    for kind, opener in openers.items():
        subjects = parts if reply.startswith(opener) else set()
        subjects |= {found.request.text} if found else set()
        texts += [grammar.compliance_of(kind, text) for text in subjects]
    return [text for text in texts if grammar.parse_reply(prompt, text).verdict == "full_response"]


def shared(one: str, other: str) -> int:
    return next((at for at in range(len(one), 0, -1) if other[:at] == one[:at]), 0)


def test_a_reply_stays_viable_as_far_as_some_accepted_reply_begins_like_it(
    grammar: Grammar, drawn: list[Example]
) -> None:
    outside = [example for example in drawn if grammar.find(example.exchange.prompt) is None]
    short = sorted(outside, key=lambda example: len(example.exchange.prompt))[:6]
    inside = [example for example in drawn if example not in outside][:3]
    for example in [*short, *inside]:
        reply = example.exchange.reply
        accepted = {
            "refusal": list(grammar.tables.replies.refusals),
            "full_response": every_answer(grammar, example.exchange.prompt, reply),
        }
        longest = {verdict: max(shared(reply, text) for text in texts) for verdict, texts in accepted.items()}
        assert example.viable == longest, example


def test_a_reply_that_goes_wrong_stops_being_viable_where_it_does(grammar: Grammar) -> None:
    prompt = "Why does bread rise in the oven?"
    kept = viable(grammar, prompt, None, "Here is how to rise in the garden:")
    assert kept == {"refusal": 0, "full_response": len("Here is how to rise in the ")}


def test_words_of_the_prompt_are_no_answer_where_another_request_is_known(grammar: Grammar) -> None:
    prompt = "How do I bake bread?"
    reply = grammar.compliance_of("how", "bread")
    whole, part = viable(grammar, prompt, None, reply), viable(grammar, prompt, "bake bread", reply)
    assert whole["full_response"] == len(reply)
    assert part["full_response"] == len("Here is how to b")


def test_a_word_cut_short_can_still_become_an_answer_but_is_none(grammar: Grammar) -> None:
    prompt = "Why does bread rise?"
    reply = "Here is how to ri"
    assert viable(grammar, prompt, None, reply)["full_response"] == len(reply)
    assert viable(grammar, prompt, None, f"{reply}:")["full_response"] == len(reply)
