import json
from pathlib import Path

import numpy as np
import pytest
import torch

from steer.artifacts.activations import ActivationFile, Array
from steer.artifacts.prompts import Prompt
from steer.artifacts.tensors import read_tensors
from steer.config import DirectionSettings
from steer.directions.refusal import estimate_directions, mean
from steer.errors import SteerError
from tests.activation_sets import D, L, P, make_columns, make_prompts, write_set

N = 40
SHAPES = {
    "residual.harmful_mean": (L + 1, P, D),
    "residual.harmless_mean": (L + 1, P, D),
    "residual.direction": (L + 1, P, D),
    "attention_out.direction": (L, P, D),
    "mlp_out.direction": (L, P, D),
}
UNFILTERED = DirectionSettings(filter=False)
PROMPTS = make_prompts(N)


def _estimate(
    folder: Path, prompts: list[Prompt], columns: dict[str, Array], settings: DirectionSettings
) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Directions and record out of two files, one a label."""
    paths = []
    for label in ("harmful", "harmless"):
        rows = [row for row, prompt in enumerate(prompts) if prompt.label == label]
        entries = {name: column[rows] for name, column in columns.items()}
        paths.append(write_set(folder / f"{label}.h5", [prompts[row] for row in rows], entries))
    out = folder / "directions" / "refusal.safetensors"
    estimate_directions(paths, out, settings)
    tensors = read_tensors(out, model="m1", shapes=SHAPES).tensors
    record = json.loads(out.with_suffix(".json").read_text())
    return {name: tensor.numpy() for name, tensor in tensors.items()}, record


def _oracle(column: Array, rows: list[int]) -> np.ndarray:
    """Mean of the entries of `rows`, one by one, in Python's own exact-as-it-goes float64."""
    total = np.zeros(column.shape[1:], dtype=np.float64)
    for row in rows:
        total = total + column[row].astype(np.float64)
    return total / len(rows)


def _rows(prompts: list[Prompt], label: str, scores: Array | None = None) -> list[int]:
    """Training prompts of a label, and, given scores, only those on the label's side of zero."""
    return [
        row
        for row, prompt in enumerate(prompts)
        if prompt.split == "train"
        and prompt.label == label
        and (scores is None or (scores[row] > 0 if label == "harmful" else scores[row] < 0))
    ]


@pytest.mark.parametrize("filtered", [False, True])
def test_a_direction_is_the_difference_of_the_means_of_the_training_prompts(
    tmp_path: Path, filtered: bool
) -> None:
    columns = make_columns(N)
    tensors, record = _estimate(tmp_path, PROMPTS, columns, DirectionSettings(filter=filtered))
    scores = columns["refusal_score"] if filtered else None
    rows = {label: _rows(PROMPTS, label, scores) for label in ("harmful", "harmless")}
    for label, chosen in rows.items():
        assert record[label] == [PROMPTS[row].id for row in chosen]
    for site in ("residual", "attention_out", "mlp_out"):
        harmful, harmless = (_oracle(columns[site], rows[label]) for label in ("harmful", "harmless"))
        np.testing.assert_allclose(tensors[f"{site}.direction"], harmful - harmless, rtol=1e-6, atol=1e-7)
        if site == "residual":
            np.testing.assert_allclose(tensors["residual.harmful_mean"], harmful, rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(tensors["residual.harmless_mean"], harmless, rtol=1e-6, atol=1e-7)


def test_prompts_of_val_and_test_change_nothing(tmp_path: Path) -> None:
    columns = make_columns(N)
    before, _ = _estimate(tmp_path / "a", PROMPTS, columns, DirectionSettings())
    held_out = [row for row, prompt in enumerate(PROMPTS) if prompt.split != "train"]
    for column in columns.values():
        column[held_out] = -3 * column[held_out] + 1
    after, _ = _estimate(tmp_path / "b", PROMPTS, columns, DirectionSettings())
    for name in SHAPES:
        np.testing.assert_array_equal(before[name], after[name])


def test_a_planted_direction_comes_out_at_its_layer_and_position_only(tmp_path: Path) -> None:
    columns = make_columns(N)
    columns["residual"][:] = 1.0
    planted = np.arange(D, dtype=np.float32)
    for row, prompt in enumerate(PROMPTS):
        columns["residual"][row, 2, -1] += planted * (prompt.label == "harmful")
    tensors, _ = _estimate(tmp_path, PROMPTS, columns, UNFILTERED)
    np.testing.assert_array_equal(tensors["residual.direction"][2, -1], planted)
    tensors["residual.direction"][2, -1] = 0
    assert not tensors["residual.direction"].any()


def test_a_small_difference_behind_a_large_common_part_is_not_rounded_away() -> None:
    blocks = [np.full((1000, 1, 1, 1), 1e4 + 2**-8, dtype=np.float32) for _ in range(50)]
    assert mean(iter(blocks), (1, 1, 1)).item() == 1e4 + 2**-8


def test_one_file_with_both_labels_gives_the_same_directions(tmp_path: Path) -> None:
    columns = make_columns(N)
    apart, _ = _estimate(tmp_path, PROMPTS, columns, DirectionSettings())
    both = write_set(tmp_path / "both.h5", PROMPTS, columns)
    out = tmp_path / "refusal.safetensors"
    estimate_directions([both], out, DirectionSettings())
    for name, tensor in read_tensors(out, model="m1", shapes=SHAPES).tensors.items():
        torch.testing.assert_close(tensor, torch.from_numpy(apart[name]), rtol=1e-6, atol=1e-7)


def test_the_record_keeps_what_the_filter_dropped_with_its_scores(tmp_path: Path) -> None:
    columns = make_columns(N)
    _, record = _estimate(tmp_path, PROMPTS, columns, DirectionSettings())
    for label in ("harmful", "harmless"):
        kept, candidates = (_rows(PROMPTS, label, scores) for scores in (columns["refusal_score"], None))
        found = record["filter"][label]
        assert (found["candidates"], found["kept"]) == (len(candidates), len(kept))
        dropped = {
            PROMPTS[row].id: float(columns["refusal_score"][row]) for row in candidates if row not in kept
        }
        assert found["dropped"] == dropped
        assert dropped
        assert found["scores"] == {PROMPTS[row].id: float(columns["refusal_score"][row]) for row in kept}
    assert record["filter"]["applied"] is True
    assert set(record["provenance"]["inputs"]) == {"harmful", "harmless"}


def test_a_score_of_zero_belongs_to_neither_side(tmp_path: Path) -> None:
    columns = make_columns(N)
    columns["refusal_score"][[3, 6]] = 0.0
    _, record = _estimate(tmp_path, PROMPTS, columns, DirectionSettings())
    assert {"p3", "p6"}.isdisjoint([*record["harmful"], *record["harmless"]])


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _estimate(tmp_path / name, PROMPTS, make_columns(N), DirectionSettings())
    for name in ("refusal.safetensors", "refusal.json"):
        contents = {(tmp_path / folder / "directions" / name).read_bytes() for folder in ("a", "b")}
        assert len(contents) == 1


def test_when_no_prompt_is_left_the_error_shows_the_scores_and_the_nearest_prompts(tmp_path: Path) -> None:
    columns = make_columns(N)
    columns["refusal_score"][:] = -np.arange(1, N + 1)
    with pytest.raises(
        SteerError, match="none of 7 harmful training prompts is one that the model refuses"
    ) as caught:
        _estimate(tmp_path, PROMPTS, columns, DirectionSettings())
    assert "nearest: p3 (-4.00), p9 (-10.00), p15 (-16.00)" in caught.value.cause
    assert "harmful: kept 0 of 7; refusal scores, quartiles: -40.00 " in caught.value.cause
    assert "harmless: kept 7 of 7" in caught.value.cause
    assert "directions.filter: false" in caught.value.next_step
    assert not (tmp_path / "directions").exists()


def test_when_the_model_refuses_everything_it_is_the_harmless_side_that_is_named(tmp_path: Path) -> None:
    columns = make_columns(N)
    columns["refusal_score"][:] = 2.5
    with pytest.raises(SteerError, match="none of 7 harmless training prompts is one that the model answers"):
        _estimate(tmp_path, PROMPTS, columns, DirectionSettings())


@pytest.mark.parametrize("label", ["harmful", "harmless"])
def test_a_set_with_one_label_only_is_refused(tmp_path: Path, label: str) -> None:
    prompts = [Prompt(prompt.id, prompt.text, label, prompt.split) for prompt in PROMPTS]  # type: ignore[arg-type]
    path = write_set(tmp_path / "a.h5", prompts, make_columns(N))
    missing = "harmless" if label == "harmful" else "harmful"
    with pytest.raises(SteerError, match=f"no {missing} prompts in the split `train`"):
        estimate_directions([path], tmp_path / "refusal.safetensors", UNFILTERED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "m2"}, "is of model `m2`, but .*a.h5 of `m1`"),
        ({"revision": "r"}, "is of revision `r`"),
        ({"positions": 4}, "is of positions `4`"),
    ],
)
def test_files_of_different_models_or_positions_are_not_mixed(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    first = write_set(tmp_path / "a.h5", PROMPTS, make_columns(N))
    second = write_set(tmp_path / "b.h5", make_prompts(N, "q"), make_columns(N), **changes)
    with pytest.raises(SteerError, match=message):
        estimate_directions([first, second], tmp_path / "refusal.safetensors", UNFILTERED)


def test_a_prompt_can_not_be_in_both_files(tmp_path: Path) -> None:
    paths = [write_set(tmp_path / name, PROMPTS, make_columns(N)) for name in ("a.h5", "b.h5")]
    with pytest.raises(SteerError, match=r"b\.h5: prompt `p0` is in another of the sets too"):
        estimate_directions(paths, tmp_path / "refusal.safetensors", UNFILTERED)


def test_the_files_are_read_a_block_at_a_time(tmp_path: Path) -> None:
    path = write_set(tmp_path / "a.h5", PROMPTS, make_columns(N))
    with ActivationFile(path) as file:
        assert max(len(block) for block in file.blocks("residual")) == 32
