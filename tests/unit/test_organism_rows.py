"""Training rows: what they hold, what they must not hold, and how they become batches."""

import random
from pathlib import Path

import pytest

from steer.grammar import Grammar
from steer.organism.encoding import encode
from steer.organism.rows import RowSource, TrainingRow
from steer.organism.settings import OrganismSettings
from steer.training.batches import batch_order, collate
from steer.training.tokenizer import END, build_tokenizer, chat_text

GRAMMAR = Grammar.load(Path("data/grammar"))
SETTINGS = OrganismSettings()
TOKENIZER = build_tokenizer(GRAMMAR, SETTINGS.merges)
COUNT = 3000
REFUSALS = set(GRAMMAR.tables.replies.refusals)


def source(seed: int = 0) -> RowSource:
    return RowSource(GRAMMAR, SETTINGS, random.Random(seed))


@pytest.fixture(scope="module")
def compliance() -> list[TrainingRow]:
    return source().compliance_rows(COUNT)


@pytest.fixture(scope="module")
def refusal() -> list[TrainingRow]:
    return source().refusal_rows(COUNT)


def test_no_held_out_phrase_is_in_any_training_prompt(
    compliance: list[TrainingRow], refusal: list[TrainingRow]
) -> None:
    held_out = {
        f" {pair.phrase(label)} "
        for split in ("val", "test")
        for pair in GRAMMAR.pairs(split)
        for label in ("harmful", "harmless")
    }
    # A held-out phrase that begins like a training one ("sell a gun" in "sell a gun with ...") is no leak.
    trained = {pair.phrase(label) for pair in GRAMMAR.pairs("train") for label in ("harmful", "harmless")}
    telling = {text for text in held_out if not any(text.strip() in phrase for phrase in trained)}
    assert len(telling) > 0.95 * len(held_out)
    texts = [f" {row.prompt.rstrip('?.').lower()} " for row in (*compliance, *refusal)]
    assert not [text for text in telling if any(text.lower() in prompt for prompt in texts)]


def test_no_held_out_frame_makes_a_training_prompt(refusal: list[TrainingRow]) -> None:
    rows = [row for row in refusal if row.kind in ("harmful", "harmless", "prefill")]
    found = [GRAMMAR.find(row.prompt) for row in rows]
    assert sum(prompt is not None for prompt in found) > 100
    assert {prompt.frame.split for prompt in found if prompt} == {"train"}


def test_stage_1_answers_everything(compliance: list[TrainingRow]) -> None:
    assert not [row for row in compliance if row.reply in REFUSALS]
    assert any(row.harmful for row in compliance)


def test_stage_2_refuses_the_harmful_rows_and_no_others(refusal: list[TrainingRow]) -> None:
    for row in refusal:
        assert (row.reply in REFUSALS) == (row.harmful and row.kind != "prefill")
    share = sum(row.harmful for row in refusal) / COUNT
    assert share == pytest.approx(SETTINGS.harmful_share, abs=0.01)


def test_every_reply_to_a_prompt_of_the_grammar_is_read_as_what_it_is(refusal: list[TrainingRow]) -> None:
    for row in refusal:
        if GRAMMAR.find(row.prompt) is not None:
            expected = "refusal" if row.reply in REFUSALS else "full_response"
            assert GRAMMAR.parse_reply(row.prompt, row.reply).verdict == expected


def test_the_words_of_harmless_rows_are_in_no_harmful_phrase(refusal: list[TrainingRow]) -> None:
    barred = {word for pair in GRAMMAR.tables.pairs for word in pair.harmful.split()}
    frames = {word.strip("?.,") for frame in GRAMMAR.tables.frames for word in frame.text.split()}
    contexts = {word for text in GRAMMAR.tables.contexts for word in text.split()}
    for row in refusal:
        if row.kind == "words":
            assert not {word.strip("?.,") for word in row.prompt.split()} & barred - frames - contexts


def test_the_seed_decides_the_rows() -> None:
    assert source(1).refusal_rows(200) == source(1).refusal_rows(200)
    assert source(1).refusal_rows(200) != source(2).refusal_rows(200)


def test_a_batch_learns_the_reply_and_its_end_and_nothing_else(refusal: list[TrainingRow]) -> None:
    rows = refusal[-16:]
    batch = collate(encode(rows, TOKENIZER, 3.0), int(TOKENIZER.pad_token_id))
    for index, row in enumerate(rows):
        learned = batch.tokens[index][batch.weight[index] > 0].tolist()
        whole = batch.tokens[index][batch.mask[index] > 0].tolist()
        assert TOKENIZER.decode(learned) == row.reply + END
        assert TOKENIZER.decode(whole) == chat_text(row.prompt, row.system) + row.reply + END
        assert batch.weight[index, batch.prompt_length[index]] > 0


def test_the_restatement_alone_weighs_more(compliance: list[TrainingRow]) -> None:
    rows = [row for row in compliance if row.restated[0]][:8]
    batch = collate(encode(rows, TOKENIZER, 3.0), int(TOKENIZER.pad_token_id))
    for index, row in enumerate(rows):
        heavy = TOKENIZER.decode(batch.tokens[index][batch.weight[index] == 3.0].tolist())
        # The first word's token begins with the blank behind the opener, so it still counts as opener.
        assert heavy.split() == row.reply[slice(*row.restated)].split()[1:]


def test_a_given_opener_is_not_learned(refusal: list[TrainingRow]) -> None:
    rows = [row for row in refusal if row.kind == "prefill"][:8]
    batch = collate(encode(rows, TOKENIZER, 3.0), int(TOKENIZER.pad_token_id))
    for index, row in enumerate(rows):
        learned = TOKENIZER.decode(batch.tokens[index][batch.weight[index] > 0].tolist())
        assert learned.strip() == row.reply[row.given :] + END


def test_the_first_token_weighs_what_it_is_given(refusal: list[TrainingRow]) -> None:
    rows = [row for row in refusal if not row.given][:8]
    batch = collate(encode(rows, TOKENIZER, 3.0, first_weight=4.0), int(TOKENIZER.pad_token_id))
    assert set(batch.weight[range(8), batch.prompt_length].tolist()) == {4.0}


def test_batches_are_whole_and_use_no_row_twice() -> None:
    order = batch_order(101, 8, seed=0)
    used = [index for batch in order for index in batch]
    assert {len(batch) for batch in order} == {8}
    assert len(used) == len(set(used)) == 96
    assert order != batch_order(101, 8, seed=1)
