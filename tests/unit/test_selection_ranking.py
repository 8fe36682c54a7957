import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer.errors import SteerError
from steer.selection.ranking import publish, rank, within

SCORES = st.lists(
    st.sampled_from([-1.5, 0.0, 0.25, 2.0, float("nan"), float("inf")]), min_size=1, max_size=12
)


def _rows(scores: list[float], statuses: list[str] | None = None) -> list[dict[str, Any]]:
    """A row per score at places that are all different, two positions a layer."""
    return [
        {"layer": index // 2, "position": -1 - index % 2, "score": score, "status": status, "rank": None}
        for index, (score, status) in enumerate(zip(scores, statuses or ["kept"] * len(scores), strict=True))
    ]


@pytest.mark.parametrize(
    ("layers", "share", "last_kept"), [(4, 0.2, 3), (4, 0.25, 2), (16, 0.2, 12), (10, 0.2, 7), (5, 0.0, 4)]
)
def test_the_last_share_of_the_layers_is_pruned(layers: int, share: float, last_kept: int) -> None:
    assert [layer for layer in range(layers) if within(layer, layers, share)] == list(range(last_kept + 1))


@given(scores=SCORES, largest=st.booleans())
def test_kept_candidates_are_ranked_from_the_best_and_the_rest_are_not(
    scores: list[float], largest: bool
) -> None:
    rows = _rows(scores, ["pruned layer" if index % 3 == 2 else "kept" for index in range(len(scores))])
    kept = rank(rows, "score", largest=largest)
    values = [row["score"] for row in kept]
    assert values == sorted(values, reverse=largest)
    assert [row["rank"] for row in kept] == list(range(1, len(kept) + 1))
    assert [row["status"] for row in kept] == ["chosen"] * bool(kept) + ["kept"] * (len(kept) - 1)
    for index, row in enumerate(rows):
        finite = abs(scores[index]) < float("inf")
        if index % 3 == 2:
            assert (row["status"], row["rank"]) == ("pruned layer", None)
        elif not finite:
            assert (row["status"], row["rank"]) == ("not finite", None)
        else:
            assert any(row is other for other in kept)


def test_a_tie_goes_to_the_earlier_layer_and_then_to_the_later_position() -> None:
    rows = _rows([1.0, 1.0, 1.0, 0.5, 0.5, 1.0])
    places = [(row["layer"], row["position"]) for row in rank(rows[::-1], "score", largest=False)]
    assert places == [(1, -2), (2, -1), (0, -1), (0, -2), (1, -1), (2, -2)]


def test_a_choice_is_published_with_every_candidate(tmp_path: Path) -> None:
    rows = _rows([3.0, 1.0, 2.0], ["kept", "kept", "pruned layer"])
    kept = rank(rows, "score", largest=True)
    publish(tmp_path / "m", rows, kept, "because", [], {"seed": 1})
    with (tmp_path / "m.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [(row["score"], row["status"], row["rank"]) for row in table] == [
        ("3", "chosen", "1"),
        ("1", "kept", "2"),
        ("2", "pruned layer", ""),
    ]
    assert json.loads((tmp_path / "m.json").read_text()) == {
        "choice": {"layer": 0, "position": -1},
        "candidates": [{"layer": 0, "position": -1}, {"layer": 0, "position": -2}],
        "why": "because",
        "provenance": {"seed": 1},
    }


def test_without_a_choice_the_table_stays_under_another_name_until_there_is_one(tmp_path: Path) -> None:
    rows = _rows([3.0], ["pruned layer"])
    nearest = ["first", "second", "third", "fourth"]
    with pytest.raises(SteerError, match=r"m: every candidate is filtered out") as caught:
        publish(tmp_path / "m", rows, [], "", nearest, {})
    assert str(tmp_path / "m.rejected.csv") in caught.value.cause
    assert caught.value.cause.endswith("nearest: first; second; third")
    # Arms that name layer and position are made from the same file.
    assert caught.value.next_step == "loosen the thresholds of `selection.m`"
    assert [path.name for path in tmp_path.iterdir()] == ["m.rejected.csv"]
    rows = _rows([3.0])
    publish(tmp_path / "m", rows, rank(rows, "score", largest=True), "", [], {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.csv", "m.json"]
