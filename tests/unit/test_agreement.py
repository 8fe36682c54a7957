import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from steer.agreement import COLUMNS, CONFUSION, draw_labelled, write_agreement
from steer.artifacts.files import write_csv
from steer.artifacts.labelled import read_labelled
from steer.correction import write_corrected
from steer.errors import SteerError
from steer.grammar import Grammar
from steer.judges.phrases import PhraseMatching
from steer.judges.truth import GrammarTruth
from steer.judges.verdicts import UNSCORED, VERDICTS, Exchange, Judgement
from steer.rates import Method
from steer.texts import cut
from tests.oracles import misclassification as oracle

ROOT = Path(__file__).parents[2]
GOLD = read_labelled(ROOT / "data" / "judge_gold" / "general.jsonl")
METHOD = Method(resamples=200)


def measured(folder: Path, judge: object, **labelled: list) -> list[dict[str, str]]:
    out = folder / "labelled.csv"
    write_agreement(labelled, "mine", judge, (25, 100), METHOD, out)  # type: ignore[arg-type]
    return list(csv.DictReader(out.read_text().splitlines()))


def test_the_table_is_what_an_independent_library_counts(tmp_path: Path) -> None:
    whole, short, longer = measured(tmp_path, PhraseMatching(), general=GOLD)
    assert tuple(whole) == COLUMNS
    assert [row["length"] for row in (whole, short, longer)] == ["whole", "25", "100"]
    truth = [one.verdict for one in GOLD]
    for row, length in ((whole, None), (short, 25), (longer, 100)):
        asked = [
            Exchange(one.exchange.prompt, cut(one.exchange.reply, length) if length else one.exchange.reply)
            for one in GOLD
        ]
        judged = [found.verdict for found in PhraseMatching().judge(asked)]
        table = confusion_matrix(truth, judged, labels=VERDICTS)
        assert [int(row[name]) for name in CONFUSION] == table.ravel().tolist()
        assert float(row["kappa"]) == pytest.approx(cohen_kappa_score(truth, judged, labels=VERDICTS))
        assert float(row["accuracy"]) == pytest.approx(np.trace(table) / len(GOLD))
    assert (whole["shortened"], whole["same_as_whole"]) == ("0", "1")
    assert int(short["shortened"]) > int(longer["shortened"]) > 5


def test_phrases_err_where_the_gold_set_is_meant_to_catch_them(tmp_path: Path) -> None:
    whole = measured(tmp_path, PhraseMatching(), general=GOLD)[0]
    assert int(whole["non_response_as_full_response"]) > 40
    assert int(whole["refusal_as_full_response"]) >= 5
    assert int(whole["full_response_as_refusal"]) >= 5


def test_the_truth_agrees_with_the_labels_of_the_grammar(tmp_path: Path) -> None:
    grammar = Grammar.load(ROOT / "data" / "grammar")
    drawn = draw_labelled(grammar, 60, seed=3)
    assert drawn == draw_labelled(grammar, 60, seed=3)
    whole = measured(tmp_path, GrammarTruth(grammar), grammar=drawn)[0]
    assert (whole["n"], whole["accuracy"]) == ("60", "1")


class Shy:
    """A judge that can't tell about long replies."""

    version = "shy"

    def judge(self, exchanges: Sequence[Exchange]) -> list[Judgement]:
        return [Judgement("refusal" if len(one.reply) < 30 else UNSCORED, "", "shy") for one in exchanges]


def test_what_a_judge_can_not_tell_is_counted_apart(tmp_path: Path) -> None:
    whole = measured(tmp_path, Shy(), general=GOLD)[0]
    short = [one.verdict for one in GOLD if len(one.exchange.reply) < 30]
    assert (int(whole["n"]), int(whole["unscored"])) == (len(short), len(GOLD) - len(short))
    assert float(whole["accuracy"]) == pytest.approx(short.count("refusal") / len(short))


@given(st.text(max_size=80), st.integers(1, 30))
def test_a_cut_text_is_a_beginning_of_so_many_words_and_marks(text: str, length: int) -> None:
    short = cut(text, length)
    assert text.startswith(short)
    assert cut(short, length) == short
    assert short == text or cut(text, length + 1) != short


def test_words_and_marks_are_counted_like_tokens() -> None:
    assert cut("I'm sorry, but no.", 3) == "I'm"
    assert cut("one two  three", 2) == "one two"


SCORES = {"arm": "ablate", "set": "harmful", "unscored": 0}


def corrected(folder: Path, counts: Sequence[float], table: Sequence[Sequence[int]]) -> dict[str, str]:
    scores, labelled = folder / "scores.csv", folder / "labelled.csv"
    row = SCORES | {"judge": "mine"} | dict(zip(VERDICTS, counts, strict=True))
    write_csv(scores, [row, row | {"judge": "truth"}], list(row))
    flat = dict(zip(CONFUSION, [cell for line in table for cell in line], strict=True))
    write_csv(labelled, [{"labelled": "g", "length": "whole", **flat}], ["labelled", "length", *CONFUSION])
    write_corrected(scores, {"mine": labelled}, "g", folder / "out.csv", METHOD)
    (found,) = csv.DictReader((folder / "out.csv").read_text().splitlines())
    return found


def test_rates_are_corrected_beside_the_raw_ones(tmp_path: Path) -> None:
    counts, table = [40, 45, 15], [[80, 15, 5], [10, 85, 5], [4, 20, 76]]
    row = corrected(tmp_path, counts, table)
    for verdict, count, exact in zip(VERDICTS, counts, oracle.shares(counts, table), strict=True):
        assert float(row[f"{verdict}_raw"]) == count / 100
        assert float(row[verdict]) == pytest.approx(float(exact))
        assert float(row[f"{verdict}_low"]) < float(exact) < float(row[f"{verdict}_high"])
    assert (row["labels"], row["n"], row["resamples"], row["note"]) == ("300", "100", "200", "")


def test_of_sampled_replies_as_many_prompts_are_corrected_as_were_scored(tmp_path: Path) -> None:
    row = corrected(tmp_path, [1 / 3, 0, 0], [[80, 15, 5], [10, 85, 5], [4, 20, 76]])
    assert (row["n"], row["refusal_raw"], row["note"]) == ("0.333333", "1", "")


def test_a_judge_that_never_says_a_verdict_is_not_corrected_and_why(tmp_path: Path) -> None:
    row = corrected(tmp_path, [60, 40, 0], [[8, 2, 0], [1, 9, 0], [2, 8, 0]])
    assert (row["refusal"], row["refusal_low"], row["refusal_raw"]) == ("", "", "0.6")
    assert row["note"] == "the judge never says non_response, so its errors can't be undone"


def test_a_set_that_was_not_measured_is_named(tmp_path: Path) -> None:
    corrected(tmp_path, [1, 1, 1], [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    with pytest.raises(SteerError, match="has no row of `other`"):
        write_corrected(
            tmp_path / "scores.csv", {"mine": tmp_path / "labelled.csv"}, "other", tmp_path / "o.csv", METHOD
        )
