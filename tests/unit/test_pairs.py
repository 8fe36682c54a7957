import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steer.artifacts.answers import Answers
from steer.artifacts.files import write_jsonl
from steer.artifacts.prompts import Prompt, read_prompts
from steer.config import OverlapSettings, SetSettings
from steer.errors import SteerError
from steer.grammar.sets import prompt_id
from steer.models.loading import LoadedModel
from steer.models.spans import mark
from steer.pairs import TURNS, refusals_of
from steer.prompts import write_prompts
from steer.sources import Source

GRAMMAR, SOURCES = Path("data/grammar"), Path("data/sources.tsv")
QUESTIONS = [f"Where does river number {number} end?" for number in range(12)]
ANSWERS = [
    {"text": text, "reply": f"At sea {place}.", "document": f"D{place}"}
    for place, text in enumerate(QUESTIONS)
]


def _write(folder: Path, rows: list[dict[str, Any]], name: str = "pairs", **settings: Any) -> list[Prompt]:
    raw, out = folder / f"{name}.raw.jsonl", folder / f"{name}.jsonl"
    write_jsonl(raw, rows)
    chosen = SetSettings(source=str(raw), label="harmful", **{"train": 6, **settings})
    write_prompts(name, chosen, 0, GRAMMAR, SOURCES, raw, out)
    return read_prompts(out)


def test_the_same_prompts_are_refused_and_answered(tmp_path: Path) -> None:
    refused = _write(tmp_path, ANSWERS, "refused", target="refusal")
    answered = _write(tmp_path, ANSWERS, "answered", target="compliance")
    assert [row.pair for row in refused] == [row.pair for row in answered]
    assert [row.text for row in refused] == [row.text for row in answered]
    fixed = Path("data/prompts/refusals.txt").read_text().splitlines()
    assert len(set(fixed)) == 12
    assert {row.target for row in refused} <= set(fixed)
    assert len({row.target for row in refused}) > 1
    replies = {row["text"]: row["reply"] for row in ANSWERS}
    assert all(row.target == replies[row.text] and row.target_in == "reply" for row in answered)


def test_a_question_that_is_answered_twice_makes_one_pair(tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="repeats prompt 1"):
        _write(tmp_path, [ANSWERS[0], {**ANSWERS[0], "reply": "Nowhere."}], target="refusal", train=1)


def test_a_models_own_refusals_stand_behind_the_prompts_that_it_refused(tmp_path: Path) -> None:
    replies = [
        {"prompt_id": prompt_id(text), "arm": arm, "text": f"I'm sorry, I can't tell of number {number}."}
        for number, text in enumerate(QUESTIONS[:8])
        for arm in ("baseline", "ablate")
    ]
    replies.append({"prompt_id": prompt_id(QUESTIONS[8]), "arm": "baseline", "text": "It ends at sea 8."})
    # Of sampled replies the first alone: what a later one refuses is neither here nor there.
    replies = [{**row, "sample": 0} for row in replies]
    again = [row for row in replies if row["arm"] == "baseline"]
    replies += [{**row, "sample": 1, "text": "I'm sorry, I can't tell."} for row in again]
    own = tmp_path / "generation.jsonl"
    write_jsonl(own, replies)
    sides = {
        target: _write(tmp_path, ANSWERS, target, target=target, refusals=str(own), train=8)
        for target in ("refusal", "compliance")
    }
    assert {row.text for row in sides["refusal"]} == set(QUESTIONS[:8])
    assert len({row.target for row in sides["refusal"]}) == 8
    # What the model answered makes no pair, on neither side.
    assert [row.pair for row in sides["refusal"]] == [row.pair for row in sides["compliance"]]
    for row in sides["refusal"]:
        assert row.target == f"I'm sorry, I can't tell of number {QUESTIONS.index(row.text)}."
    write_jsonl(own, replies[-1:])
    with pytest.raises(SteerError, match="holds no refusal of the arm `baseline`"):
        refusals_of(own)


def test_a_question_stands_with_its_document_and_without(tmp_path: Path) -> None:
    both = [_write(tmp_path, ANSWERS, side, target="prompt", document=side) for side in ("with", "without")]
    for with_it, without in zip(*both, strict=True):
        assert with_it.pair == without.pair
        assert with_it.target == without.target
        assert with_it.text == f"Document: D{QUESTIONS.index(without.target)}\n{without.text}"
        assert without.text == f"Question: {without.target}"
        assert with_it.target_in == without.target_in == "prompt"
        assert with_it.answers is without.answers is None


def test_the_answers_of_a_question_are_the_documents_and_those_of_memory(tmp_path: Path) -> None:
    rows = [{**row, "answers": [f"A{at}", "b"], "memory": ["c"]} for at, row in enumerate(ANSWERS)]
    for side, document in (("with", True), ("without", False)):
        for row in _write(tmp_path, rows, side, target="prompt", document=side):
            said = (f"A{QUESTIONS.index(row.target)}", "b") if document else ()
            assert row.answers == Answers(said, ("c",))


def test_both_sides_keep_the_same_questions_where_a_source_asks_one_over_several_documents(
    tmp_path: Path,
) -> None:
    cells = [
        f"{question}\tD{place} {number}" for place, question in enumerate(QUESTIONS) for number in (1, 2)
    ]
    raw, table = tmp_path / "asked", tmp_path / "sources.tsv"
    raw.write_text("\n".join(["question\tpassage", *cells]) + "\n")
    known = {"name": "asked", "kind": "prompts", "origin": "here", "location": "asked", "licence": "unknown"}
    known |= {"format": "tsv", "columns": "question passage", "text": "question", "document": "passage"}
    row = dict.fromkeys(Source.model_fields, "") | known | {"gated": "no", "about": "of a test"}
    table.write_text("\n".join("\t".join(part) for part in (row.keys(), row.values())) + "\n")
    sides = []
    for side in ("with", "without"):
        settings = SetSettings(
            source="asked", label="harmless", target="prompt", document=side, train=6, test=3
        )
        out = tmp_path / f"{side}.jsonl"
        # Compared with test prompts as well: what is left out must not depend on the document.
        write_prompts(side, settings, 0, GRAMMAR, table, raw, out, overlap=OverlapSettings(threshold=0.99))
        sides.append(read_prompts(out))
    assert [(row.pair, row.target, row.split) for row in sides[0]] == [
        (row.pair, row.target, row.split) for row in sides[1]
    ]
    assert len({row.target for row in sides[0]}) == 9


def test_both_replies_are_counted_to_the_length_of_the_shorter_one(
    tmp_path: Path, tiny: Callable[[str], LoadedModel]
) -> None:
    sides = {}
    for name, other in (("refusing", "complying"), ("complying", "refusing")):
        target = {"refusing": "refusal", "complying": "compliance"}
        settings = SetSettings(
            source="grammar", label="harmful", target=target[name], equal_tokens=other, train=8
        )
        beside = settings.model_copy(update={"target": target[other], "equal_tokens": name}), None
        out = tmp_path / f"{name}.jsonl"
        write_prompts(name, settings, 0, GRAMMAR, SOURCES, None, out, beside=beside)
        sides[name] = {row.pair: row for row in read_prompts(out)}
    loaded = tiny("olmoe")
    assert sides["refusing"].keys() == sides["complying"].keys()
    for pair, refusing in sides["refusing"].items():
        complying = sides["complying"][pair]
        assert (refusing.beside, complying.beside) == (complying.target, refusing.target)
        lengths = [
            len(loaded.tokenizer.encode(text, add_special_tokens=False))
            for text in (refusing.target, complying.target)
        ]
        for row, length in zip((refusing, complying), lengths, strict=True):
            marked, plain = mark(loaded, row, 5), mark(loaded, replace(row, beside=""), 5)
            assert plain.tokens == length
            # The same text is read; fewer of its first tokens are counted.
            assert (marked.ids, marked.counted[0]) == (plain.ids, plain.counted[0])
            assert marked.tokens == min(lengths)


def test_the_other_side_of_a_users_own_pairs_is_found_by_the_pair(tmp_path: Path) -> None:
    raws = []
    for side, rows in enumerate((ANSWERS, ANSWERS[1:])):
        raws.append(tmp_path / f"{side}.jsonl")
        told = [
            {"text": row["text"], "pair": row["text"], "target": f"{row['reply']} {side}"} for row in rows
        ]
        write_jsonl(raws[-1], told)
    settings, other = (
        SetSettings(source=str(raw), label="harmful", target="reply", equal_tokens="other", train=12)
        for raw in raws
    )
    out = tmp_path / "set.jsonl"
    with pytest.raises(SteerError, match="is not in `other`"):
        write_prompts("set", settings, 0, GRAMMAR, SOURCES, raws[0], out, beside=(other, raws[1]))
    with pytest.raises(SteerError, match="the other side of its pairs, is not given"):
        write_prompts("set", settings, 0, GRAMMAR, SOURCES, raws[0], out)
    fewer = other.model_copy(update={"train": 5})
    write_prompts("set", fewer, 0, GRAMMAR, SOURCES, raws[1], out, beside=(settings, raws[0]))
    assert all(row.beside == f"{row.target[:-1]}0" for row in read_prompts(out))


def test_earlier_turns_stand_ahead_of_the_prompt(tmp_path: Path, tiny: Callable[[str], LoadedModel]) -> None:
    said = ["Hello.", "Good day.", "Where does it end?", "At sea."]
    rows = [
        {
            "messages": [
                {"role": TURNS[place % 2], "content": f"{text} {number}"} for place, text in enumerate(said)
            ]
        }
        for number in range(3)
    ]
    loaded = tiny("olmoe")
    for number, row in enumerate(
        sorted(_write(tmp_path, rows, target="reply", train=3), key=lambda r: r.text)
    ):
        told = [f"{text} {number}" for text in said]
        assert (list(row.before), row.text, row.target) == (told[:2], told[2], told[3])
        turns = [{"role": TURNS[place % 2], "content": text} for place, text in enumerate(told[:3])]
        text = loaded.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        marked = mark(loaded, row, 5)
        assert loaded.tokenizer.decode(marked.ids[: marked.prompt]) == text
        assert loaded.tokenizer.decode(marked.ids[marked.prompt :]) == told[3]
    # The same last turn behind another conversation is another prompt, and another pair.
    other = [{"messages": [{**rows[0]["messages"][0], "content": "Well."}, *rows[0]["messages"][1:]]}]
    assert len({row.pair for row in _write(tmp_path, [rows[0], *other], target="reply", train=2)}) == 2


def test_messages_are_a_prompt_and_its_reply(tmp_path: Path) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": text},
                {"role": "assistant", "content": f"At sea {place}."},
            ]
        }
        for place, text in enumerate(QUESTIONS)
    ]
    found = _write(tmp_path, rows, target="reply")
    assert all(row.target == f"At sea {QUESTIONS.index(row.text)}." for row in found)
    assert all(row.pair == prompt_id(row.text) for row in found)


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ({"text": "Where?"}, {"target": "refusal"}, "has no `reply` to pair a refusal with"),
        ({"text": "Where?"}, {"target": "prompt", "document": "with"}, "has no `document`"),
        ({"messages": [{"role": "system", "content": "x"}]}, {}, "has messages of system"),
        ({"messages": "Where?"}, {}, "has messages of no role"),
        ({"messages": [{"role": "user", "content": " "}]}, {}, "has no text"),
        (
            {"messages": [{"role": "user", "content": "A"}, {"role": "user", "content": "B"}]},
            {},
            "has messages of user, user",
        ),
        (
            {"messages": [{"role": role, "content": " "} for role in ("user", "assistant", "user")]},
            {},
            "has no text in message 1",
        ),
        ({"messages": [{"role": "user", "content": "Where?"}]}, {"target": "reply"}, "has no `target`"),
        (
            {"text": "Where?", "target": "a\x00b", "pair": "1"},
            {"target": "reply"},
            r"control character U\+0000",
        ),
        ({"text": "Where\x1b[2J?"}, {}, r"control character U\+001B"),
        ({"text": "x" * 102_400}, {}, "is 102400 bytes long"),
    ],
)
def test_a_row_that_makes_no_pair_or_prompt_is_named_by_its_number(
    tmp_path: Path, row: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SteerError, match=rf"prompt 2.*{message}"):
        _write(
            tmp_path, [{**ANSWERS[0], "target": "At", "pair": "0", "text": "At?"}, row], train=1, **settings
        )


def test_markup_is_text(tmp_path: Path) -> None:
    text = "What does <script>alert(1)</script> &amp; **bold** do?"
    (row,) = _write(tmp_path, [{"text": text}], train=1)
    assert row.text == text


def test_a_file_of_another_encoding_is_named_by_its_line(tmp_path: Path) -> None:
    raw, out = tmp_path / "own.jsonl", tmp_path / "out.jsonl"
    raw.write_bytes(json.dumps({"text": "a"}).encode() + b"\n" + '{"text": "café"}\n'.encode("cp1252"))
    settings = SetSettings(source=str(raw), label="harmful", train=1)
    with pytest.raises(SteerError, match="line 2: is not UTF-8 text"):
        write_prompts("own", settings, 0, GRAMMAR, SOURCES, raw, out)


@pytest.mark.parametrize(
    "settings",
    [
        {"source": "grammar", "target": "reply"},
        {"source": "grammar", "target": "refusal", "document": "with"},
        {"source": "squad", "document": "with"},
    ],
)
def test_a_pair_that_its_source_can_not_make_is_an_error(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"is not for source|`document` is for"):
        SetSettings(label="harmful", train=1, **settings)


def test_the_tutorial_has_the_same_prompts_on_both_sides(tmp_path: Path) -> None:
    sides = []
    for name in ("digits", "words"):
        raw, out = Path(f"data/tutorial/{name}.jsonl"), tmp_path / f"{name}.jsonl"
        settings = SetSettings(source=str(raw), label="harmless", target="reply", train=60)
        write_prompts(name, settings, 0, GRAMMAR, SOURCES, raw, out)
        sides.append(read_prompts(out))
    for digits, words in zip(*sides, strict=True):
        assert digits.pair == words.pair
        assert (
            words.target == digits.target.replace("\n1.", "\nOne.").replace("\n2.", "\nTwo.") != digits.target
        )
