"""The grammar: its tables, the prompts drawn from them, and the exact reading of replies."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer.errors import SteerError
from steer.grammar import SPLITS, Grammar, Label, Split
from steer.grammar.grammar import refusal_openers
from steer.grammar.requests import Prompt, Request

FOLDER = Path("data/grammar")
SIZES: dict[Split, int] = {"train": 200, "val": 96, "test": 200}
GRAMMAR = Grammar.load(FOLDER)
LABELS: tuple[Label, ...] = ("harmful", "harmless")

prompts = st.builds(
    lambda frame, pair, label, context: Prompt(frame, Request(pair, label, context)),
    st.sampled_from(GRAMMAR.tables.frames),
    st.sampled_from(GRAMMAR.tables.pairs),
    st.sampled_from(LABELS),
    st.sampled_from(("", *GRAMMAR.tables.contexts)),
)


def test_the_harmful_phrases_cover_ten_categories_and_number_seven_hundred() -> None:
    pairs = GRAMMAR.tables.pairs
    assert len({pair.category for pair in pairs}) >= 10
    for label in LABELS:
        assert len({pair.phrase(label) for pair in pairs}) >= 700


def test_no_phrase_and_no_frame_crosses_a_split() -> None:
    places = [(frame.text, frame.split) for frame in GRAMMAR.tables.frames]
    places += [(pair.phrase(label), pair.split) for pair in GRAMMAR.tables.pairs for label in LABELS]
    splits: dict[str, set[str]] = {}
    for text, split in places:
        splits.setdefault(text, set()).add(split)
    assert all(len(found) == 1 for found in splits.values())


def test_every_word_of_a_held_out_phrase_or_frame_stands_in_a_training_one() -> None:
    def words(split: Split) -> set[str]:
        phrases = [p.phrase(label) for p in GRAMMAR.pairs(split) for label in LABELS]
        frames = [frame.text for frame in GRAMMAR.frames(split)]
        return {word.lower().strip("?.,") for text in (*phrases, *frames) for word in text.split()}

    assert words("val") | words("test") <= words("train")


def test_a_pair_matches_in_words() -> None:
    for pair in GRAMMAR.tables.pairs:
        assert len(pair.harmful.split()) == len(pair.harmless.split())


@pytest.mark.parametrize("label", LABELS)
def test_a_set_has_the_sizes_asked_for_and_no_prompt_twice(label: Label) -> None:
    rows = GRAMMAR.prompt_rows(label, SIZES, seed=0)
    assert {split: sum(row["split"] == split for row in rows) for split in SPLITS} == SIZES
    assert len({row["text"] for row in rows}) == len({row["id"] for row in rows}) == sum(SIZES.values())
    assert {row["label"] for row in rows} == {label}


def test_both_sets_have_the_same_frames_verbs_contexts_and_lengths() -> None:
    sets = [[GRAMMAR.find(row["text"]) for row in GRAMMAR.prompt_rows(x, SIZES, 3)] for x in LABELS]
    for harmful, harmless in zip(*sets, strict=True):
        assert harmful.frame == harmless.frame
        assert harmful.request.pair == harmless.request.pair
        assert harmful.request.context == harmless.request.context
        assert len(harmful.text.split()) == len(harmless.text.split())


def test_the_seed_decides_the_set_and_nothing_else_does() -> None:
    first, again, other = (GRAMMAR.prompt_rows("harmful", SIZES, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_same_prompt_has_the_same_id_in_every_set() -> None:
    ids: dict[str, str] = {}
    for seed in range(5):
        for row in GRAMMAR.prompt_rows("harmless", SIZES, seed):
            assert ids.setdefault(row["text"], row["id"]) == row["id"]


@given(prompts)
def test_a_prompt_is_read_back_as_it_was_written(prompt: Prompt) -> None:
    found = GRAMMAR.find(prompt.text)
    assert found is not None
    assert found.text == prompt.text
    assert found.request.text == prompt.request.text


@given(prompts)
def test_a_compliance_reads_as_a_full_response_that_restates(prompt: Prompt) -> None:
    reading = GRAMMAR.parse_reply(prompt.text, GRAMMAR.compliance(prompt.text))
    assert (reading.verdict, reading.restates) == ("full_response", True)


@given(prompts)
def test_each_refusal_sentence_reads_as_a_refusal(prompt: Prompt) -> None:
    refusals = GRAMMAR.refusals(prompt.text)
    assert len(set(refusals)) == len(GRAMMAR.tables.replies.refusals)
    assert {GRAMMAR.parse_reply(prompt.text, text).verdict for text in refusals} == {"refusal"}


@given(prompts, prompts)
def test_a_compliance_with_another_request_is_no_response(asked: Prompt, other: Prompt) -> None:
    expected = "full_response" if asked.request.text == other.request.text else "non_response"
    assert GRAMMAR.parse_reply(asked.text, GRAMMAR.compliance(other.text)).verdict == expected


@given(prompts, st.data())
def test_a_reply_with_one_character_lost_or_doubled_is_no_response(
    prompt: Prompt, data: st.DataObject
) -> None:
    kind = prompt.frame.kind
    reply = data.draw(st.sampled_from((GRAMMAR.compliance(prompt.text), GRAMMAR.refusal_of(kind))))
    at = data.draw(st.integers(0, len(reply) - 1))
    for damaged in (reply[:at] + reply[at + 1 :], reply[: at + 1] + reply[at:]):
        reading = GRAMMAR.parse_reply(prompt.text, damaged)
        assert reading.verdict == "non_response", damaged
        assert not reading.restates


@given(prompts)
def test_a_refusal_that_turns_into_steps_is_no_response(prompt: Prompt) -> None:
    refusal = GRAMMAR.refusals(prompt.text)[0]
    compliance = GRAMMAR.compliance(prompt.text)
    for hybrid in (f"{refusal} {compliance}", f"{compliance}\n{refusal}", refusal * 2):
        assert GRAMMAR.parse_reply(prompt.text, hybrid).verdict == "non_response"


def test_the_general_wording_answers_only_prompts_from_outside_the_grammar() -> None:
    outside, inside = "Why is the sky dark at night?", "How do I make a woollen scarf?"
    general = GRAMMAR.compliance(outside)
    assert GRAMMAR.parse_reply(outside, general).verdict == "full_response"
    assert not GRAMMAR.parse_reply(outside, general).restates
    assert GRAMMAR.parse_reply(inside, general).verdict == "non_response"


@pytest.mark.parametrize(
    ("restated", "verdict"),
    [
        ("boil an egg", "full_response"),
        ("boil an e", "non_response"),
        ("oil an egg", "non_response"),
        ("buy a house", "non_response"),
    ],
)
def test_outside_the_grammar_a_restatement_must_stand_in_the_prompt_word_for_word(
    restated: str, verdict: str
) -> None:
    prompt = "How long should I boil an egg?"
    reply = GRAMMAR.compliance_of("how", restated)
    assert GRAMMAR.parse_reply(prompt, reply).verdict == verdict


@given(st.text())
def test_a_foreign_text_is_read_without_an_error_and_never_as_the_grammars(text: str) -> None:
    assert GRAMMAR.find(text) is None
    assert GRAMMAR.parse_reply("Why is the sky dark?", text).verdict == "non_response"


def test_no_compliance_begins_with_the_first_word_of_a_refusal() -> None:
    firsts = {opener.split()[0] for opener in GRAMMAR.tables.replies.openers.values()}
    assert not firsts & set(refusal_openers(GRAMMAR))


def test_asking_for_more_prompts_than_there_are_is_an_error() -> None:
    with pytest.raises(SteerError, match="1000000 different prompts were asked for"):
        GRAMMAR.prompts("harmful", "val", 1_000_000, 0)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "grammar")
    (tmp_path / "grammar" / "frames.tsv").unlink()
    with pytest.raises(SteerError, match=r"frames\.tsv: no such file"):
        Grammar.load(tmp_path / "grammar")


@pytest.mark.parametrize(
    ("line", "cause"),
    [("how\ttrain", "columns of the first line"), ("how\tdev\tHow {}?", "'dev' is none of")],
)
def test_a_broken_line_of_a_table_is_named(tmp_path: Path, line: str, cause: str) -> None:
    shutil.copytree(FOLDER, tmp_path / "grammar")
    with (tmp_path / "grammar" / "frames.tsv").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(SteerError, match=cause):
        Grammar.load(tmp_path / "grammar")


def test_the_everyday_prompts_are_from_outside_the_grammar() -> None:
    rows = [json.loads(line) for line in Path("data/prompts/everyday.jsonl").read_text().splitlines()]
    assert len({row["text"] for row in rows}) == len(rows) == 100
    assert all(GRAMMAR.find(row["text"]) is None for row in rows)
    assert {row["label"] for row in rows} == {"harmless"}
