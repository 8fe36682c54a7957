import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer.grammar import Grammar
from steer.judges.damage import Damage, split_words
from steer.judges.examples import ASKED_MIX, REPLY_MIX, Example, ExampleSource
from steer.judges.verdicts import VERDICTS

texts = st.text(alphabet="ab \n.", max_size=30)


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return Grammar.load("data/grammar")


@pytest.fixture(scope="module")
def drawn(grammar: Grammar) -> list[Example]:
    return list(ExampleSource(grammar, "val", random.Random(0)).draw(600))


@given(texts)
def test_words_join_to_their_text_but_for_blanks_at_its_end(text: str) -> None:
    assert "".join(split_words(text)) == text.rstrip()


@given(texts, st.integers(0, 1000))
def test_damage_never_fails_and_depends_on_its_seed_alone(text: str, seed: int) -> None:
    once, again = (Damage(random.Random(seed), lambda: "stray")(text) for _ in range(2))
    assert once == again


def test_damage_mostly_changes_a_text() -> None:
    damage = Damage(random.Random(0), lambda: "stray")
    text = "carry a woollen scarf into a theatre"
    assert sum(damage(text) != text for _ in range(200)) > 160


def test_a_stutter_repeats_or_loses_a_piece_of_one_word() -> None:
    damage = Damage(random.Random(0), lambda: "stray")
    for _ in range(100):
        found = damage._stuttered([" scratching"])[0]
        assert found.startswith(" s")
        assert found != " scratching" or len(found) == len(" scratching")
        assert set(found) <= set(" scratching")


def test_a_splice_begins_like_one_text_and_ends_like_the_other() -> None:
    damage = Damage(random.Random(0), lambda: "stray")
    one, other = "a b c d", "w x y z"
    for _ in range(50):
        spliced = damage.splice(one, other)
        assert spliced.endswith("z")
        assert set(spliced) <= set(one + other)


def test_the_verdict_of_an_example_is_the_grammars(grammar: Grammar, drawn: list[Example]) -> None:
    for example in drawn:
        reading = grammar.parse_reply(example.exchange.prompt, example.exchange.reply)
        assert example.verdict == reading.verdict


def test_every_verdict_and_every_kind_of_reply_occurs(drawn: list[Example]) -> None:
    assert {example.kind for example in drawn} == set(REPLY_MIX)
    shares = Counter(example.verdict for example in drawn)
    assert all(shares[verdict] > 0.1 * len(drawn) for verdict in VERDICTS)


def test_an_example_with_a_verdict_is_viable_to_its_end(drawn: list[Example]) -> None:
    for example in drawn:
        if example.verdict != "non_response":
            assert example.viable[example.verdict] == len(example.exchange.reply)


def test_what_a_reply_is_about_comes_after_its_opener(grammar: Grammar, drawn: list[Example]) -> None:
    heads = {f"{opener} how to " for opener in grammar.tables.replies.openers.values()}
    for example in drawn:
        reply = example.exchange.reply
        found = example.subject_at < len(reply)
        assert found == any(reply.startswith(head) and reply != head for head in heads)
        assert not found or reply[: example.subject_at] in heads


def test_training_never_sees_a_prompt_of_a_held_out_split(grammar: Grammar) -> None:
    trained = {e.exchange.prompt for e in ExampleSource(grammar, "train", random.Random(0)).draw(800)}
    held_out = {frame.before for split in ("val", "test") for frame in grammar.frames(split)}
    held_out -= {frame.before for frame in grammar.frames("train")}
    assert held_out
    for prompt in trained:
        found = grammar.find(prompt)
        assert found is None or (found.frame.split, found.request.pair.split) == ("train", "train")


def test_held_out_requests_of_the_grammar_are_of_their_split(grammar: Grammar, drawn: list[Example]) -> None:
    found = [grammar.find(example.exchange.prompt) for example in drawn]
    requests = [prompt for prompt in found if prompt is not None]
    assert {(prompt.request.pair.split, prompt.frame.split) for prompt in requests} == {("val", "val")}
    assert len(requests) == pytest.approx(ASKED_MIX["phrase"] * len(drawn), rel=0.2)


def test_the_same_seed_draws_the_same_examples(grammar: Grammar) -> None:
    once, again = (list(ExampleSource(grammar, "test", random.Random(3)).draw(40)) for _ in range(2))
    assert once == again
