"""The embedded model's tokenizer and chat template."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.exceptions import TemplateError

from steer.grammar import Grammar
from steer.grammar.grammar import refusal_openers
from steer.training.tokenizer import END, START, build_tokenizer, chat_text

GRAMMAR = Grammar.load(Path("data/grammar"))
TOKENIZER = build_tokenizer(GRAMMAR, 300)


def ids(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_any_text_survives_the_tokenizer(text: str) -> None:
    assert TOKENIZER.decode(ids(text)) == text


def test_every_word_of_a_prompt_and_its_reply_is_one_token() -> None:
    for prompt in GRAMMAR.prompts("harmful", "test", 50, 0):
        for text in (prompt.text, GRAMMAR.compliance(prompt.text)):
            words = TOKENIZER.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
            assert len(ids(text)) == len(words)


@pytest.mark.parametrize("system", [None, "Answer briefly."])
def test_the_rows_text_is_what_the_chat_template_renders(system: str | None) -> None:
    turns = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": "How do I tune a ukulele?"})
    rendered = TOKENIZER.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert rendered == chat_text("How do I tune a ukulele?", system)


def test_a_reply_in_the_history_ends_with_the_end_of_turn() -> None:
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello."}]
    assert TOKENIZER.apply_chat_template(turns, tokenize=False).endswith(f"{START}assistant\nHello.{END}\n")


def test_an_unknown_role_is_refused_by_the_template() -> None:
    with pytest.raises(TemplateError, match="unknown role tool"):
        TOKENIZER.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_the_last_five_prompt_tokens_are_the_template_for_every_prompt() -> None:
    tails = {tuple(ids(chat_text(prompt.text))[-5:]) for prompt in GRAMMAR.prompts("harmless", "test", 50, 0)}
    assert [TOKENIZER.decode([token]) for token in tails.pop()] == [END, "\n", START, "assistant", "\n"]
    assert not tails


def test_refusals_and_compliances_differ_in_their_first_token() -> None:
    openers = {ids(opener)[0] for opener in GRAMMAR.tables.replies.openers.values()}
    refusals = {ids(word)[0] for word in refusal_openers(GRAMMAR)}
    assert refusals == {ids(text)[0] for text in GRAMMAR.tables.replies.refusals}
    assert not openers & refusals


def test_the_tokenizer_is_the_same_whenever_it_is_built() -> None:
    again = build_tokenizer(GRAMMAR, 300)
    assert again.backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()
