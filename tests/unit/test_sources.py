import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from steer.errors import SteerError
from steer.sources import Source, find_source, is_allowed_url, read_source, read_sources

TABLE = Path("data/sources.tsv")
ROWS = [
    {"prompt": "Explain how bread rises", "harm": ["baking", "chemistry"]},
    {"prompt": "Name three rivers, and a \"sea\"\nwith 'quotes'", "harm": None},
]


def _row() -> dict[str, str]:
    with TABLE.open(encoding="utf-8", newline="") as stream:
        return next(row for row in csv.DictReader(stream, delimiter="\t") if row["origin"] == "https")


def _source(**changes: Any) -> Source:
    columns = {"columns": "prompt harm", "text": "prompt", "category": "harm"}
    records = {"records": "seeds"} if changes.get("format") == "yaml" else {}
    return Source.model_validate({**_row(), **columns, **records, **changes})


def _write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_the_table_of_sources_is_valid_and_no_two_rows_name_one_file() -> None:
    sources = read_sources(TABLE).values()
    assert {source.origin for source in sources} == {"https", "pypi", "hub", "here"}
    # Two rows may keep different parts of one file.
    keys = [(source.address, source.records, source.keep, source.text) for source in sources]
    assert max(Counter(keys).values()) == 1
    assert max(Counter(source.sha256 for source in sources if source.sha256).values()) == 1


@pytest.mark.parametrize(
    "name",
    [
        *("advbench", "harmbench-val", "harmbench-test", "jailbreakbench-harmful", "jailbreakbench-benign"),
        *("strongreject", "strongreject-small", "arditi-malicious-instruct", "arditi-tdc2023", "alpaca"),
        *("xstest-safe", "xstest-unsafe", "or-bench-hard-1k", "beavertails-30k-unsafe", "squad", "mctest"),
        *("faitheval-counterfactual", "faitheval-unanswerable", "faitheval-inconsistent", "mquake"),
        *("cf-triviaqa",),
        *("multijail-en", "multijail-it", "multijail-th"),
    ],
)
def test_the_sets_of_both_papers_stand_in_the_table(name: str) -> None:
    source = find_source(name, TABLE)
    # What is not pinned by the table is by the lock file, from the first download on.
    assert source.sha256 or source.origin in ("https", "hub")


def test_the_columns_of_the_table_are_the_fields_of_a_source() -> None:
    assert list(_row()) == list(Source.model_fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "abc"}, "`sha256`"),
        ({"bytes": "0"}, "`bytes`"),
        ({"bytes": "many"}, "`bytes`"),
        ({"origin": "ftp"}, "`origin`"),
        ({"format": "pickle"}, "`format`"),
        ({"sha256": ""}, "known together"),
        ({"columns": "category"}, "`instruction` is read and does not stand"),
        ({"keep": "category"}, "`keep` is"),
        ({"memory": "category"}, "no column of that is named"),
        ({"document": "category", "reply": "a[b]"}, "`a` is read and does not stand"),
        ({"kind": "rewritten"}, "`goal` is the column"),
        ({"origin": "hub"}, "needs `member`"),
        ({"name": "Two Words"}, "`name`"),
        ({"licence": ""}, "`licence`"),
        ({"location": "http://example.org/9d852fae1a9121c78b29142de733cb1340770cc3"}, "not an https URL"),
        ({"location": "https://example.org/main/a.json"}, "does not name the revision"),
        ({"origin": "pypi"}, "needs `member`"),
        ({"text": ""}, "needs the column of the prompt"),
    ],
)
def test_a_malformed_row_is_named_by_its_line_and_key(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    table = _write_table(tmp_path / "sources.tsv", [_row(), {**_row(), "name": "other", **changes}])
    with pytest.raises(SteerError, match=f"line 3: .*{message}"):
        read_sources(table)


def test_a_row_with_a_cell_too_few_or_a_name_twice_is_an_error(tmp_path: Path) -> None:
    table = _write_table(tmp_path / "doubled.tsv", [_row(), _row()])
    with pytest.raises(SteerError, match=r"line 3: .* is there twice"):
        read_sources(table)
    short = tmp_path / "short.tsv"
    short.write_text("\n".join(["\t".join(_row()), "\t".join(list(_row().values())[:-1])]) + "\n")
    with pytest.raises(SteerError, match="line 2: `about`"):
        read_sources(short)


def test_an_unknown_name_is_answered_with_the_nearest_known_one() -> None:
    with pytest.raises(SteerError, match=r"source `advbensh`: is not in .*\n.*did you mean `advbench`"):
        find_source("advbensh", TABLE)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://example.org/a", True),
        ("http://127.0.0.1:8000/a", True),
        ("http://[::1]/a", True),
        ("http://example.org/a", False),
        ("http://127.0.0.1.example.org/a", False),
        ("file:///etc/passwd", False),
        ("ftp://127.0.0.1/a", False),
    ],
)
def test_only_https_is_allowed_but_for_servers_on_this_machine(url: str, allowed: bool) -> None:
    assert is_allowed_url(url) is allowed


def _as_csv(rows: list[dict[str, Any]]) -> str:
    def cell(value: Any) -> str:
        inside = value if value is None or isinstance(value, str) else value[0]
        return '"{}"'.format((inside or "").replace('"', '""'))

    return "\n".join(["prompt,harm", *(f"{cell(row['prompt'])},{cell(row['harm'])}" for row in rows)])


NONE = {"goal": "", "document": "", "reply": ""}
WRITERS = {
    "json": json.dumps,
    "jsonl": lambda rows: "\n".join(json.dumps(row) for row in rows),
    "yaml": lambda rows: yaml.safe_dump({"dataset_name": "x", "seeds": rows}),
    "csv": _as_csv,
    "tsv": lambda rows: _as_csv(rows).replace(",", "\t", 1).replace('",', '"\t'),
}


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_every_format_of_records_gives_the_same_prompts_and_main_categories(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "prompts"
    path.write_text(WRITERS[kind](ROWS), encoding="utf-8")
    read = list(read_source(path, _source(format=kind)))
    assert read == [
        {"text": ROWS[0]["prompt"], "category": "baking", **NONE},
        {"text": ROWS[1]["prompt"], "category": "", **NONE},
    ]


def test_a_text_file_gives_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts"
    path.write_bytes("\ufeffName a river\r\n\r\n  Nom d’un fleuve \n".encode())
    read = list(read_source(path, _source(format="txt", text="", category="", columns="")))
    assert [row["text"] for row in read] == ["Name a river", "Nom d’un fleuve"]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("json", '{"prompt": "x"}'),
        ("json", "[1, 2]"),
        ("json", "[{"),
        ("yaml", "seeds: {a: 1}"),
        ("yaml", "other: []"),
        ("yaml", "- just\n- a list"),
        ("yaml", "seeds: [!!python/object/apply:os.getcwd []]"),
        ("jsonl", '{"prompt": "x", "harm": ""}\n[1]'),
        ("parquet", b"PAR1 and no more"),
        ("csv", 'prompt,harm\n"unended'),
    ],
)
def test_a_file_of_another_shape_is_an_error_that_quotes_nothing_of_it(
    tmp_path: Path, kind: str, content: str | bytes
) -> None:
    path = tmp_path / "prompts"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    source = _source(format=kind)
    with pytest.raises(SteerError, match=f"is not {kind} as the table says") as caught:
        list(read_source(path, source))
    assert "unended" not in str(caught.value)


def test_a_record_without_a_prompt_is_named_by_its_number_and_never_quoted(tmp_path: Path) -> None:
    path = tmp_path / "prompts"
    path.write_text(json.dumps([{"prompt": "first", "goal": "a"}, {"prompt": " ", "goal": "secret"}]))
    with pytest.raises(
        SteerError, match=r"prompt 2: has no text in `prompt` \(it has goal, prompt\)"
    ) as caught:
        list(read_source(path, _source(format="json", columns="prompt", category="")))
    assert "secret" not in str(caught.value)


def test_a_file_that_was_not_fetched_is_an_error_that_names_the_download(tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="run the download of"):
        list(read_source(tmp_path / "absent", _source(format="json")))


def test_a_column_that_is_gone_is_an_error_that_names_both(tmp_path: Path) -> None:
    path = tmp_path / "prompts"
    path.write_text(json.dumps([{"query": "first", "harm": "secret"}]))
    said = r"has no column `prompt`: it has harm, query; the table of sources names prompt harm"
    with pytest.raises(SteerError, match=said) as caught:
        list(read_source(path, _source(format="json")))
    assert "secret" not in str(caught.value)


def test_parquet_is_read_like_the_other_formats(tmp_path: Path) -> None:
    from pyarrow import Table
    from pyarrow.parquet import write_table

    path = tmp_path / "prompts"
    write_table(Table.from_pylist(ROWS), path)
    assert [row["category"] for row in read_source(path, _source(format="parquet"))] == ["baking", ""]


@pytest.mark.parametrize(
    ("keep", "kept"),
    [("safe=False", ["b"]), ("safe!=False", ["a"]), ("kind=contrast_*", ["b"]), ("kind!=contrast_*", ["a"])],
)
def test_rows_are_kept_by_a_pattern_of_a_column(tmp_path: Path, keep: str, kept: list[str]) -> None:
    path = tmp_path / "prompts"
    rows = [{"prompt": "a", "safe": True, "kind": "homonyms"}]
    path.write_text(json.dumps([*rows, {"prompt": "b", "safe": False, "kind": "contrast_homonyms"}]))
    source = _source(format="json", columns="prompt safe kind", category="", keep=keep)
    assert [row["text"] for row in read_source(path, source)] == kept


def test_inner_columns_flags_and_lists_become_text(tmp_path: Path) -> None:
    path = tmp_path / "prompts"
    record = {"prompt": "a", "flags": {"one": False, "two": True}, "answers": {"text": ["Paris", "paris"]}}
    path.write_text(json.dumps([record]))
    names = {"columns": "prompt flags answers", "category": "flags", "reply": "answers.text"}
    (row,) = read_source(path, _source(format="json", **names))
    assert (row["category"], row["reply"], row["document"]) == ("two", "Paris", "")


def test_text_of_another_encoding_is_named_and_control_characters_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "prompts"
    path.write_bytes("Nom d’un café\n".encode("cp1252"))
    source = _source(format="txt", text="", category="", columns="")
    with pytest.raises(SteerError, match=r"is not UTF-8 text \(byte"):
        list(read_source(path, source))
    path.write_text("Name\x00 a\x1b river <b>&amp;</b>\n")
    assert [row["text"] for row in read_source(path, source)] == ["Name a river <b>&amp;</b>"]
