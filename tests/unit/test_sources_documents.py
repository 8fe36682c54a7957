"""Every published set of questions with documents, in small files of its columns, on the way to a verdict."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from steer.artifacts.prompts import Prompt, read_prompts
from steer.config import SetSettings
from steer.errors import SteerError
from steer.judges.exact import ExactMatching
from steer.judges.verdicts import Exchange
from steer.prompts import write_prompts
from steer.sources import Source, find_source, read_source

GRAMMAR, SOURCES = Path("data/grammar"), Path("data/sources.tsv")
QUESTION, STORY = "What is the harbour of Ostra?", "The harbour of Ostra is Velm. Ships call there."
FAITHEVAL = {
    "qid": "q1",
    "question": QUESTION,
    "context": STORY,
    "answers": ["Pell", "Velm"],
    "subset": "own",
}
RECORDS: dict[str, dict[str, Any]] = {
    "squad": {
        "id": "1",
        "title": "Ostra",
        "context": STORY,
        "question": QUESTION,
        "answers": {"text": ["Velm", "velm"], "answer_start": [24, 24]},
    },
    "faitheval-counterfactual": {
        "id": "1",
        "question": QUESTION,
        "context": STORY,
        "answer": "Velm",
        "answerKey": "B",
        "choices": {"label": ["A", "B"], "text": ["Pell", "Velm"]},
    },
    "faitheval-unanswerable": FAITHEVAL,
    "faitheval-inconsistent": FAITHEVAL,
    "cf-triviaqa": {
        "question_text": QUESTION,
        "paragraph_text": STORY,
        "question_id": "tc_1",
        "annotation": {"answer": [{"paragraph_reference": {"string": "Velm"}}]},
    },
    "mquake": {
        "case_id": 1,
        "requested_rewrite": [],
        "questions": [QUESTION, "Where does Ostra trade?"],
        "answer": "Pell",
        "answer_alias": ["Port Pell"],
        "new_answer": "Velm",
        "new_answer_alias": ["Old Velm"],
        "single_hops": [],
        "new_single_hops": [
            {"question": "?", "cloze": "Ostra lies in the country of", "answer": "Quill", "answer_alias": []},
            {"question": "?", "cloze": "The harbour of Quill is", "answer": "Velm", "answer_alias": ["V"]},
        ],
        "orig": {},
    },
    "mctest": {
        "idx": {"story": "mc500.test.1", "question": 0},
        "story": STORY,
        "question": QUESTION,
        "answer": "C",
        "answer_options": {"A": "Pell", "B": "Quill", "C": "Velm", "D": "none"},
        "question_is_multiple": False,
    },
}
ANSWERED = {"squad", "faitheval-counterfactual", "cf-triviaqa", "mquake", "mctest"}
REPLIES = ("It is Velm.", "It is Port Pell.", "The document gives no answer.")


def _prompt(folder: Path, name: str, record: dict[str, Any], **settings: Any) -> Prompt:
    source, raw, out = find_source(name, SOURCES), folder / "raw", folder / "out.jsonl"
    raw.write_text(json.dumps(record if source.format == "jsonl" else [record]), encoding="utf-8")
    chosen = SetSettings(source=name, label="harmless", target="prompt", test=1, **settings)
    write_prompts("questions", chosen, 0, GRAMMAR, SOURCES, raw, out)
    (found,) = read_prompts(out)
    return found


def _verdicts(prompt: Prompt) -> list[str]:
    judge = ExactMatching("contains")
    return [
        one.verdict
        for one in judge.judge([Exchange(prompt.text, reply, prompt.answers) for reply in REPLIES])
    ]


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_published_row_is_asked_with_and_without_its_document_and_scored(tmp_path: Path, name: str) -> None:
    sides = {side: _prompt(tmp_path, name, RECORDS[name], document=side) for side in ("with", "without")}
    document = (
        "Ostra lies in the country of Quill. The harbour of Quill is Velm." if name == "mquake" else STORY
    )
    assert sides["with"].text == f"Document: {document}\nQuestion: {QUESTION}"
    assert sides["without"].text == f"Question: {QUESTION}"
    assert {side.target for side in sides.values()} == {QUESTION}
    assert sides["with"].pair == sides["without"].pair

    known = "from_memory" if name == "mquake" else "other"
    said = "from_document" if name in ANSWERED else "other"
    assert _verdicts(sides["with"]) == [said, known, "abstained"]
    # What a document says is no answer to one who was not given it.
    assert _verdicts(sides["without"]) == ["other", known, "abstained"]


def test_an_instruction_stands_behind_the_question_on_both_sides(tmp_path: Path) -> None:
    for side in ("with", "without"):
        prompt = _prompt(
            tmp_path, "faitheval-unanswerable", FAITHEVAL, document=side, instruction="If not said: unknown."
        )
        assert prompt.text.endswith(f"Question: {QUESTION}\nIf not said: unknown.")
    with pytest.raises(ValueError, match="`instruction` is for"):
        SetSettings(source="squad", label="harmless", test=1, instruction="Be brief.")


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_published_row_that_lost_a_column_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    column = find_source(name, SOURCES).columns.split()[-1]
    with pytest.raises(SteerError, match=f"has no column `{column}`"):
        _prompt(
            tmp_path,
            name,
            {key: value for key, value in RECORDS[name].items() if key != column},
            document="with",
        )


LOST: dict[str, tuple[str, dict[str, Any]]] = {
    "squad": ("answers.text", {"answers": {"texts": ["Velm"]}}),
    "cf-triviaqa": ("annotation.answer", {"annotation": {"answers": []}}),
    "mctest": (r"answer_options\[answer\]", {"answer_options": ["Pell", "Quill", "Velm", "none"]}),
    "faitheval-counterfactual": ("answer", {"answer": None}),
    "mquake": ("answer answer_alias", {"answer": "", "answer_alias": []}),
}


@pytest.mark.parametrize("name", sorted(LOST))
def test_a_row_without_an_answer_where_the_table_names_some_is_an_error(tmp_path: Path, name: str) -> None:
    columns, spoilt = LOST[name]
    source, path = find_source(name, SOURCES), tmp_path / "raw"
    rows = [RECORDS[name], {**RECORDS[name], **spoilt}]
    path.write_text("\n".join(map(json.dumps, rows)) if source.format == "jsonl" else json.dumps(rows))
    with pytest.raises(SteerError, match=f"prompt 2: has no answer in `{columns}"):
        list(read_source(path, source))


def test_line_breaks_that_a_story_spells_are_read_as_such(tmp_path: Path) -> None:
    record = {**RECORDS["mctest"], "story": "Ostra is a town.\\newlineIts harbour is Velm."}
    assert "a town.\nIts harbour" in _prompt(tmp_path, "mctest", record, document="with").text


def test_several_columns_of_answers_need_one_of_a_document() -> None:
    row = find_source("squad", SOURCES).model_dump() | {"reply": "answers.text title"}
    Source.model_validate(row)
    with pytest.raises(ValidationError, match="several columns of the `reply`"):
        Source.model_validate(row | {"document": ""})


def test_items_that_do_not_fit_together_are_an_error_that_names_the_row(tmp_path: Path) -> None:
    path = tmp_path / "raw"
    hops = [{"cloze": "The harbour of Quill is"}, {"answer": "Velm"}]
    path.write_text(json.dumps([RECORDS["mquake"], {**RECORDS["mquake"], "new_single_hops": hops}]))
    with pytest.raises(SteerError, match=r"prompt 2: .* do not make a text for each item"):
        list(read_source(path, find_source("mquake", SOURCES)))
