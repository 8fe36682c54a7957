import json
from pathlib import Path
from typing import Any

import pytest

from steer.artifacts.files import write_jsonl
from steer.artifacts.prompts import read_prompts
from steer.artifacts.provenance import file_digest
from steer.attacks import attacked
from steer.config import SetSettings
from steer.errors import SteerError
from steer.grammar import Grammar
from steer.grammar.sets import prompt_id
from steer.prompts import write_prompts
from steer.sources import Source, find_source, read_sources

GRAMMAR, SOURCES = Path("data/grammar"), Path("data/sources.tsv")
ROW: dict[str, Any] = dict.fromkeys(Source.model_fields, "") | {
    "name": "attack",
    "kind": "template",
    "origin": "here",
    "location": "attack",
    "licence": "unknown",
    "format": "yaml",
    "records": ".",
    "columns": "value",
    "text": "value",
    "gated": "no",
    "about": "of a test",
}
LINES = {"kind": "suffix", "format": "txt", "records": "", "columns": "", "text": ""}
TABLE = {
    "kind": "rewritten",
    "format": "json",
    "records": "jailbreaks",
    "columns": "goal prompt",
    "text": "prompt",
    "goal": "goal",
}
PROMPTS = [{"id": prompt_id(text), "text": text} for text in ("Name a river", r"Spell \1 and {{ prompt }}")]


def _source(**changes: Any) -> Source:
    return Source.model_validate({**ROW, **changes})


def _file(folder: Path, content: str) -> Path:
    path = folder / "attack"
    path.write_text(content)
    return path


def test_a_template_takes_every_prompt_as_it_is_and_says_what_was_done(tmp_path: Path) -> None:
    path = _file(tmp_path, "value: 'In a story: {{ prompt }}, told twice: {{prompt}}'")
    first, second = attacked(PROMPTS, _source(revision="7"), path)
    assert first["text"] == "In a story: Name a river, told twice: Name a river"
    # A prompt is text: neither a reference nor a gap of its own means anything in it.
    assert second["text"].count(r"Spell \1 and {{ prompt }}") == 2
    assert first["goal"] == "Name a river"
    assert first["id"] == prompt_id(first["text"])
    assert first["attack"] == {
        "name": "attack",
        "kind": "template",
        "address": "attack",
        "revision": "7",
        "sha256": file_digest(path),
        "of": PROMPTS[0]["id"],
    }


def test_a_suffix_stands_behind_the_prompt_and_depends_on_the_prompt_alone(tmp_path: Path) -> None:
    path = _file(tmp_path, "one\ntwo\nthree\n")
    rows = [{"id": prompt_id(str(number)), "text": str(number)} for number in range(40)]
    found = [row["text"] for row in attacked(rows, _source(**LINES), path)]
    assert {text.split()[1] for text in found} == {"one", "two", "three"}
    assert [row["text"] for row in attacked(rows[::-1], _source(**LINES), path)] == found[::-1]


def test_conversations_that_end_alike_stay_different_prompts(tmp_path: Path) -> None:
    path = _file(tmp_path, "value: 'In a story: {{ prompt }}'")
    said = {"text": "And then?", "target": "Rain."}
    rows = [{"id": str(number), **said, "before": [turn]} for number, turn in enumerate(["Hi", "Hello"])]
    found = [row["id"] for row in attacked([*rows, {"id": "2", **said}], _source(), path)]
    texts = ["Hi\nIn a story: And then?", "Hello\nIn a story: And then?", "In a story: And then?"]
    assert found == [prompt_id(f"{text}\nRain.") for text in texts]


def test_what_nobody_rewrote_is_left_out(tmp_path: Path) -> None:
    records = [{"goal": "name a RIVER.", "prompt": "A river, told backwards"}, {"goal": "x", "prompt": None}]
    path = _file(tmp_path, json.dumps({"jailbreaks": records}))
    (row,) = attacked([*PROMPTS, {"id": "1", "text": "x"}], _source(**TABLE), path)
    assert (row["text"], row["goal"]) == ("A river, told backwards", "Name a river")


@pytest.mark.parametrize(
    ("changes", "content", "message"),
    [
        ({}, "value: no gap", "is not one template"),
        ({}, "[1, 2]", "is not yaml"),
        (LINES, "\n", "holds no suffix"),
        ({"kind": "prompts"}, "value: x", "is no attack: its kind is prompts"),
    ],
)
def test_a_file_that_is_no_such_attack_is_an_error(
    tmp_path: Path, changes: dict[str, Any], content: str, message: str
) -> None:
    with pytest.raises(SteerError, match=message):
        list(attacked(PROMPTS, _source(**changes), _file(tmp_path, content)))


def test_a_counted_part_of_a_prompt_must_still_be_there(tmp_path: Path) -> None:
    path = _file(tmp_path, json.dumps({"jailbreaks": [{"goal": "Name a river", "prompt": "Else"}]}))
    row = {**PROMPTS[0], "target": "river", "target_in": "prompt"}
    with pytest.raises(SteerError, match="its target is not in its text under the attack"):
        list(attacked([row], _source(**TABLE), path))


@pytest.mark.parametrize("name", ["role-play", "nested"])
def test_prompts_of_the_grammar_keep_their_meaning_under_the_analogues(tmp_path: Path, name: str) -> None:
    source = find_source(name, SOURCES)
    path = Path(source.location)
    assert file_digest(path) == source.sha256
    settings = SetSettings(source="grammar", label="harmful", test=20, attack=name)
    write_prompts("attacked", settings, 0, GRAMMAR, SOURCES, None, tmp_path / "a.jsonl", attack=path)
    plain = settings.model_copy(update={"attack": None, "test": 40})
    write_prompts("plain", plain, 0, GRAMMAR, SOURCES, None, tmp_path / "p.jsonl")
    attacked_rows, rows = read_prompts(tmp_path / "a.jsonl"), read_prompts(tmp_path / "p.jsonl")
    # The same prompts as without the attack, so that the two can be compared pair by pair.
    assert [row.goal for row in attacked_rows] == [row.text for row in rows[:20]]
    grammar = Grammar.load(GRAMMAR)
    for row in attacked_rows:
        assert row.goal in row.text != row.goal
        assert row.asked == row.goal
        found = grammar.find(row.asked)
        assert found
        reply = grammar.compliance_of(found.frame.kind, found.request.text)
        assert grammar.parse_reply(row.asked, reply).restates


def test_a_set_is_drawn_from_what_its_attack_knows_or_the_attack_is_refused(tmp_path: Path) -> None:
    raw, table = tmp_path / "raw.jsonl", tmp_path / "sources.tsv"
    write_jsonl(raw, [{"text": f"Name river number {number}"} for number in range(30)])
    row = {**ROW, **TABLE}
    table.write_text("\n".join("\t".join(cells) for cells in (row.keys(), row.values())) + "\n")
    goals = [{"goal": f"Name river number {number}", "prompt": f"rewritten {number}"} for number in range(9)]
    path = _file(tmp_path, json.dumps({"jailbreaks": goals}))
    settings = SetSettings(source=str(raw), label="harmful", test=8, attack="attack")
    out = tmp_path / "set.jsonl"
    write_prompts("set", settings, 0, GRAMMAR, table, raw, out, attack=path)
    assert all(row.text.startswith("rewritten") for row in read_prompts(out))
    more = settings.model_copy(update={"test": 12})
    with pytest.raises(SteerError, match="holds 9 different prompts, 12 are asked for"):
        write_prompts("set", more, 0, GRAMMAR, table, raw, out, attack=path)
    with pytest.raises(SteerError, match="the file of `attack` is not given"):
        write_prompts("set", settings, 0, GRAMMAR, table, raw, out)


def test_published_attacks_are_pinned_and_only_our_own_harmless_ones_are_here() -> None:
    others = ("prompts", "judge", "weights")
    found = [source for source in read_sources(SOURCES).values() if source.kind not in others]
    assert {"artprompt", "deepinception", "ffa"} <= {source.name for source in found}
    assert {"aim", "gcg-garak", "renellm-code", "role-play", "nested"} <= {source.name for source in found}
    assert {source.name for source in found if source.origin == "here"} == {"role-play", "nested"}
    assert {path.name for path in Path("data/attacks").iterdir()} == {"role_play.yaml", "nested.yaml"}
    assert all(source.revision for source in found)
