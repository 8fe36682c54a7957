"""Pages of the report: replies are escaped or withheld, numbers are printed as they are meant."""

import math
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer.artifacts.files import read_jsonl, write_jsonl
from steer.errors import SteerError
from steer.figures import counts, page, registry
from tests.figure_inputs import build
from tests.figure_inputs.study import ARMS, HOSTILE, LABELS, MODEL, config


class Seen(HTMLParser):
    """Tags and text of a page, as a browser's parser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def samples(folder: Path, replies: str) -> str:
    build(folder)
    registry.draw("samples", config(folder, report={"replies": replies, "samples": 2}), MODEL)
    return (folder / MODEL / "figures" / "samples.html").read_text(encoding="utf-8")


def test_replies_are_shown_as_text_and_never_as_markup(tmp_path: Path) -> None:
    text = samples(tmp_path, "full")
    seen = Seen(text)
    assert f"{HOSTILE} reply of ablate" in seen.text
    assert not {"script", "img", "b", "i"} & set(seen.tags)
    assert not [name for name in seen.attributes if name.startswith("on")]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=60))
def test_any_text_comes_out_of_a_page_as_it_went_in(text: str) -> None:
    seen = Seen(page.render("<p>{{ reply }}</p>", {"title": "t", "reply": text}))
    assert text in seen.text
    assert seen.tags == ["html", "head", "meta", "meta", "title", "style", "body", "h1", "p"]


def test_withheld_pages_hold_no_word_of_prompts_replies_or_reasons(tmp_path: Path) -> None:
    text = samples(tmp_path, "withheld")
    assert "withheld" in text
    for secret in ("request 0", "reply of", "script", "opens with"):
        assert secret not in text
    assert text.count('<td class="text">refusal</td>') == 2 * len(ARMS) * len(LABELS)


def test_each_arm_answers_the_same_sampled_test_prompts(tmp_path: Path) -> None:
    text = samples(tmp_path, "full")
    for name in LABELS:
        assert text.count(f"request 0 of {name}") == 1
        assert text.count(f"request 1 of {name}") == 1
        assert f"request 2 of {name}" not in text
        assert "training request" not in text


def test_a_reply_without_a_verdict_is_an_error(tmp_path: Path) -> None:
    settings = build(tmp_path)
    path = tmp_path / MODEL / "judging" / "harmful.truth.jsonl"
    write_jsonl(path, read_jsonl(path)[1:])
    with pytest.raises(SteerError, match="lacks the verdict of"):
        registry.draw("samples", settings, MODEL)


def test_a_value_that_is_not_given_to_a_page_is_a_bug_not_a_blank() -> None:
    with pytest.raises(Exception, match="reply"):
        page.render("{{ reply }}", {"title": "t"})


def test_a_page_may_load_and_run_nothing() -> None:
    assert "default-src 'none'" in page.render("", {"title": "t"})


@pytest.mark.parametrize(
    ("formatted", "expected"),
    [
        (page.per_cent(0.954), "95"),
        (page.per_cent(math.nan), "–"),
        (page.per_cent(0.995), "99.5"),
        (page.per_cent(0.004), "0.4"),
        (page.per_cent(1.0), "100"),
        (page.per_cent(0.0), "0"),
        (page.points(-0.93), "−93"),
        (page.points(0.001), "0"),
        (page.points(-0.001), "0"),
        (page.points(0.02), "+2"),
        (page.points(math.nan), "–"),
        (page.p_value(0.0), "< 0.001"),
        (page.p_value(0.034), "0.034"),
        (page.p_value(math.nan), "–"),
        (page.decimals(0.0), "0.00"),
        (page.decimals(-0.118), "−0.12"),
        (page.decimals(math.nan), "–"),
        (page.short(-0.0123), "−0.012"),
        (page.short(math.nan), "–"),
        (page.amount(2 / 3), "0.67"),
        (page.amount(12.0), "12"),
        (page.amount(1234), "1234"),
    ],
)
def test_numbers_are_printed_as_meant(formatted: str, expected: str) -> None:
    assert formatted == expected


def test_agreement_has_a_cell_per_arm_and_set_and_a_dash_where_kappa_is_undefined(tmp_path: Path) -> None:
    settings = build(tmp_path)
    registry.draw("agreement", settings, MODEL)
    text = (tmp_path / MODEL / "figures" / "agreement.html").read_text(encoding="utf-8")
    judges = 2
    assert text.count("90&nbsp;%") == judges * (1 + len(ARMS)) * len(LABELS)
    assert text.count("κ –") == judges * len(LABELS)
    assert text.count("<h2>") == judges + 1
    assert text.index("<h2>small against grammar on held-out text") < text.index("<h2>small against truth on")
    assert text.count("97&nbsp;%") == len(("val", "test"))


@pytest.mark.parametrize(
    ("samples", "what"),
    [(1, "verdicts on replies"), (3, "prompts with verdicts on 3 replies each")],
)
def test_of_sampled_replies_prompts_are_counted_and_called_so(
    tmp_path: Path, samples: int, what: str
) -> None:
    config = build(tmp_path)
    paths = registry.paths_of("counts", config, MODEL)
    inputs = {key: [Path(path) for path in found] for key, found in paths.items()}
    settings = registry.settings_of("counts", config, MODEL) | {"generation.samples": samples}
    told = [row for row in counts.rows_of(inputs, settings) if "verdicts on" in row["what"]]
    assert {row["what"] for row in told} == {what}
    # Replies without a verdict are no verdicts.
    truth = {row["part"].split(",")[0]: row["n"] for row in told if row["of"] == "truth"}
    assert truth["harmless"] - truth["advbench"] == 3
