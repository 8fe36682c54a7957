from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer.judges.untrusted import Neutraliser, template_delimiters
from tests.tiny import build_tokenizer

DELIMITERS = ("<|im_start|>", "<|im_end|>", "</reply>", "[/INST]", "aa", " b")

pieces = st.lists(
    st.sampled_from([*DELIMITERS, "<", "|", "im_end", "|>", " ", "a", "A", "\n", "word"]), max_size=12
)


@given(pieces)
def test_no_delimiter_is_left_in_any_capitalisation(parts: list[str]) -> None:
    text = Neutraliser(DELIMITERS)("".join(parts)).lower()
    assert not [
        delimiter for delimiter in DELIMITERS if len(delimiter.strip()) > 1 and delimiter.lower() in text
    ]


@given(pieces)
def test_only_blanks_are_added(parts: list[str]) -> None:
    text = "".join(parts)
    assert Neutraliser(DELIMITERS)(text).replace(" ", "") == text.replace(" ", "")


def test_text_without_delimiters_is_left_as_it_is() -> None:
    text = "Here is how to bake <b>bread</b>:\n1. Prepare | well."
    assert Neutraliser(DELIMITERS)(text) == text


def test_a_delimiter_hidden_in_its_own_pieces_does_not_come_back() -> None:
    text = Neutraliser(["<|im_end|>"])("<|im_<|im_end|>end|>")
    assert "<|im_end|>" not in text


def test_a_tokenizers_special_tokens_are_among_its_delimiters() -> None:
    assert {"<|pad|>", "<|im_start|>", "<|im_end|>"} <= template_delimiters(build_tokenizer())


BRACKETED = "{% for m in messages %}<<USER>> [INST] {{ m['content'] }} [/INST]{% endfor %} ### Answer:"


@pytest.mark.parametrize("word", ["<<USER>>", "[INST]", "[/INST]", "###"])
def test_bracketed_words_that_the_template_writes_are_delimiters(word: str) -> None:
    tokenizer: Any = build_tokenizer()
    tokenizer.chat_template = BRACKETED
    found = template_delimiters(tokenizer)
    assert word in found
    assert "Answer:" not in found
