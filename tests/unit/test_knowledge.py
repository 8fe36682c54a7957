"""The grammar of facts: what documents say, what is held out, and which answer each source gives."""

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from steer.artifacts.files import iter_jsonl
from steer.errors import SteerError
from steer.judges.exact import normalised
from steer.knowledge import KINDS, Asked, Kind, Knowledge
from steer.organism.openbook.training import build_tokenizer
from steer.questions import write_questions
from steer.training.tokenizer import chat_text

KNOWLEDGE = Knowledge.load("data/knowledge")


def _held(document: str) -> dict[str, str]:
    """What a document says, by the words before each value: an independent reading of it."""
    found = {}
    tokens = document.replace(",", "").replace(".", "").split()
    for before, after in pairwise(tokens):
        if before in KNOWLEDGE.tables.relations:
            assert after in KNOWLEDGE.tables.relations[before]
            found[before] = after
    return found


def test_each_fact_has_one_value_of_its_relation_and_all_values_are_used_about_alike() -> None:
    values = Counter()
    for place, relation in KNOWLEDGE.facts:
        value = KNOWLEDGE.value((place, relation))
        assert value in KNOWLEDGE.tables.relations[relation]
        values[value] += 1
    assert len(KNOWLEDGE.facts) == 100
    assert max(values.values()) <= 8


def test_held_out_facts_are_a_part_of_every_relation_and_are_no_others() -> None:
    assert {*KNOWLEDGE.held_out} | {*KNOWLEDGE.read_about} == {*KNOWLEDGE.facts}
    assert not {*KNOWLEDGE.held_out} & {*KNOWLEDGE.read_about}
    assert {relation for _, relation in KNOWLEDGE.held_out} == {*KNOWLEDGE.tables.relations}


@pytest.mark.parametrize("kind", KINDS)
def test_documents_say_what_their_kind_promises(kind: Kind) -> None:
    questions = list(KNOWLEDGE.questions(kind, 3))
    assert len({one.question for one in questions}) == len(questions) == 5 * len(KNOWLEDGE.held_out)
    for one in questions:
        assert one.document is not None
        held = _held(one.document)
        assert held.get(one.relation) == one.said
        assert len(held) in (1, 2, 3)
        assert one.hearsay == (kind == "hearsay") == ("umour" in one.document)
        if kind == "unanswerable":
            assert one.said is None
        else:
            assert (one.said == one.memory) == (kind == "agreeing")


def test_answers_are_from_where_they_should_be() -> None:
    plain = Asked("Which?", "river", "Alwen", "doc", "Brisa")
    hearsay = Asked("Which?", "river", "Alwen", "doc", "Brisa", hearsay=True)
    lacking = Asked("Which?", "river", "Alwen", "doc")
    closed = Asked("Which?", "river", "Alwen")
    expected = {
        "own": ("Brisa", "Alwen", None, "Alwen"),
        "memory": ("Alwen",) * 4,
        "document": ("Brisa", "Brisa", None, None),
    }
    for source, answers in expected.items():
        assert tuple(one.answer(source) for one in (plain, hearsay, lacking, closed)) == answers  # type: ignore[arg-type]
    assert normalised(KNOWLEDGE.reply(plain)) == "brisa"
    assert KNOWLEDGE.reply(lacking) == KNOWLEDGE.tables.abstention
    assert closed.prompt == "Question: Which?"
    assert plain.prompt == "Document: doc\nQuestion: Which?"


def test_a_listing_is_answered_by_all_that_the_document_says() -> None:
    rng = random.Random(0)
    for fact in KNOWLEDGE.read_about[:20]:
        asked = KNOWLEDGE.listing(fact, KNOWLEDGE.frames("document", "train")[0], rng)
        for source in ("own", "memory", "document"):
            assert _held(KNOWLEDGE.reply(asked, source)) == _held(asked.document or "")  # type: ignore[arg-type]


def test_every_word_is_a_token_and_a_copied_value_is_the_one_that_was_read() -> None:
    tokenizer = build_tokenizer(KNOWLEDGE)
    tables = KNOWLEDGE.tables
    values = [value for each in tables.relations.values() for value in each]
    for word in (*tables.places, *tables.relations, *values):
        assert len(tokenizer.encode(f" {word}")) == 1
    for asked in list(KNOWLEDGE.questions("counterfactual", 0))[:40]:
        prompt = tokenizer.encode(chat_text(asked.prompt))
        assert tokenizer.decode(prompt) == chat_text(asked.prompt)
        for source, copied in (("document", True), ("memory", False)):
            assert (tokenizer.encode(KNOWLEDGE.reply(asked, source))[0] in prompt) == copied  # type: ignore[arg-type]


def test_questions_are_written_with_their_answers_and_the_seed_decides_them(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_questions("counterfactual", seed, KNOWLEDGE, tmp_path / f"{name}.jsonl")
    first, second, third = ((tmp_path / f"{name}.jsonl").read_bytes() for name in "abc")
    assert first == second != third
    for row in iter_jsonl(tmp_path / "a.jsonl"):
        assert [_held(row["document"])[row["category"]]] == row["answers"] != row["memory"]


def test_a_broken_grammar_is_named(tmp_path: Path) -> None:
    for path in Path("data/knowledge").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    Knowledge.load(tmp_path)
    relations = tmp_path / "relations.tsv"
    before = relations.read_text()
    relations.write_text(before.replace("Brisa", "Alwen"))
    with pytest.raises(SteerError, match="has a value twice"):
        Knowledge.load(tmp_path)
    relations.write_text(before)
    (tmp_path / "frames.tsv").write_text("kind\tsplit\tframe\nquestion\ttrain\tWhich {relation}?\n")
    with pytest.raises(SteerError, match="has not the gaps"):
        Knowledge.load(tmp_path)
    (tmp_path / "places.txt").unlink()
    (tmp_path / "frames.tsv").write_text("kind\tsplit\tframe\n")
    with pytest.raises(SteerError, match="no such file"):
        Knowledge.load(tmp_path)
