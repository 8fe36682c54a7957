import time
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest

from steer.artifacts.activations import ROUTER_DATASETS, ActivationFile
from steer.artifacts.parts import Compression, Part, assemble, remove_others, write_part
from steer.errors import SteerError
from tests.activation_sets import D, L, P, header, make_columns, make_prompts, write_set

N = 10
PROMPTS = make_prompts(N)
COLUMNS = make_columns(N)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_set(tmp_path / "harmful.h5", PROMPTS, COLUMNS)


def test_parts_in_any_order_join_into_rows_in_the_order_of_the_prompts(path: Path) -> None:
    with h5py.File(path) as file:
        assert file["prompt_id"].asstr()[...].tolist() == [prompt.id for prompt in PROMPTS]
        assert file["split"].asstr()[...].tolist() == [prompt.split for prompt in PROMPTS]
        assert file["label"].asstr()[...].tolist() == [prompt.label for prompt in PROMPTS]
        assert file["n_tokens"][...].tolist() == list(range(10, 10 + N))
        assert file["token_count"][...].tolist() == [P] * N
        for name, column in COLUMNS.items():
            assert file[name].dtype == column.dtype
            np.testing.assert_array_equal(file[name][...], column)


def test_entries_are_chunked_by_prompt_and_packed_after_shuffling(path: Path) -> None:
    with h5py.File(path) as file:
        for name in COLUMNS.keys() - {"refusal_score"}:
            assert file[name].chunks == (1, *COLUMNS[name].shape[1:])
            assert list(file[name]._filters) == ["shuffle", str(hdf5plugin.ZSTD_ID)]


@pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
def test_every_compression_gives_back_the_same_numbers(tmp_path: Path, compression: Compression) -> None:
    part = Part(tmp_path / "0.h5", (1, 0))
    columns = {"residual": np.stack([np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)])}
    write_part(part.path, columns, compression)
    assemble(tmp_path / "a.h5", [part], PROMPTS[:2], [7, 8], [5, 5], header())
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["residual"][...], columns["residual"][::-1])
        filters = {"zstd": ["shuffle", str(hdf5plugin.ZSTD_ID)], "gzip": ["shuffle", "gzip"], "none": []}
        assert list(file["residual"]._filters) == filters[compression]


def test_equal_work_gives_equal_bytes_a_second_later(tmp_path: Path, path: Path) -> None:
    # HDF5 counts time in whole seconds.
    time.sleep(1.1)
    again = write_set(tmp_path / "again.h5", PROMPTS, COLUMNS)
    assert again.read_bytes() == path.read_bytes()


def test_parts_that_do_not_cover_the_set_are_a_bug(tmp_path: Path) -> None:
    part = Part(tmp_path / "0.h5", (0, 2))
    write_part(part.path, {"refusal_score": np.zeros(2, np.float32)}, "zstd")
    with pytest.raises(ValueError, match="don't cover"):
        assemble(tmp_path / "a.h5", [part], PROMPTS[:3], [1, 2, 3], [5] * 3, header())
    assert not (tmp_path / "a.h5").exists()


def test_parts_of_other_settings_are_removed_and_those_being_written_are_not(tmp_path: Path) -> None:
    parts = [Part(tmp_path / name, ()) for name in ("00000-a.h5", "00001-a.h5")]
    for name in ("00000-a.h5", "00000-b.h5", ".00001-a.h5.partial"):
        (tmp_path / name).write_text("")
    remove_others(parts)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".00001-a.h5.partial", "00000-a.h5"]


def test_a_file_tells_what_it_is_of(path: Path) -> None:
    with ActivationFile(path, model="m1", revision="", prompt_ids=[prompt.id for prompt in PROMPTS]) as file:
        assert (file.model, file.revision, file.positions, file.moe_layers) == ("m1", "", P, (0, 2))
        assert file.provenance == {"stage": "tests"}
        assert file.shape("residual") == (L + 1, P, D)


def test_rows_are_chosen_by_split_and_label(path: Path) -> None:
    with ActivationFile(path) as file:
        assert file.rows() == list(range(N))
        assert file.rows(split="val") == [1, 4, 7]
        assert file.rows(split="train", label="harmful") == [3, 9]


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize("rows", [None, [], [2], [1, 2, 5, 9]])
def test_blocks_are_the_rows_in_order_whatever_their_size(
    path: Path, rows: list[int] | None, size: int
) -> None:
    expected = COLUMNS["mlp_out"][slice(None) if rows is None else rows]
    with ActivationFile(path) as file:
        blocks = list(file.blocks("mlp_out", rows, size))
    assert all(len(block) <= size for block in blocks)
    np.testing.assert_array_equal(np.concatenate([expected[:0], *blocks]), expected)


def test_values_are_one_number_a_prompt(path: Path) -> None:
    with ActivationFile(path) as file:
        np.testing.assert_array_equal(file.values("refusal_score", [3, 1]), COLUMNS["refusal_score"][[3, 1]])
        assert file.values("n_tokens").tolist() == list(range(10, 10 + N))


@pytest.mark.parametrize("name", ROUTER_DATASETS)
def test_a_dense_model_has_no_router_datasets_and_says_so(tmp_path: Path, name: str) -> None:
    columns = make_columns(N, dense=True)
    path = write_set(tmp_path / "a.h5", PROMPTS, columns, moe_layers=())
    with ActivationFile(path) as file:
        assert file.moe_layers == ()
        with pytest.raises(SteerError, match=f"has no `{name}`: the model has no MoE layers"):
            file.shape(name)


def test_an_unknown_dataset_is_named(path: Path) -> None:
    with ActivationFile(path) as file, pytest.raises(SteerError, match="lacks dataset `nothing`"):
        next(file.blocks("nothing"))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_file_cut_short_is_refused(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SteerError, match=r"harmful\.h5: is cut short or is not HDF5"):
        ActivationFile(path)


def test_a_chunk_that_can_not_be_unpacked_is_an_error_and_not_a_number(path: Path) -> None:
    # Counts are small numbers, so that their chunks are really compressed.
    with h5py.File(path) as file:
        chunk = file["expert_count"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(content)
    with ActivationFile(path) as file, pytest.raises(SteerError, match="`expert_count` can't be read"):
        list(file.blocks("expert_count"))


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("complete", False, "is not complete"),
        ("contract", 0, "is of another contract: expected `1`, found `0`"),
        ("provenance", None, "lacks attribute `provenance`"),
    ],
)
def test_a_file_that_is_no_finished_activation_file_is_refused(
    path: Path, attribute: str, value: object, message: str
) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs[attribute]
        if value is not None:
            file.attrs[attribute] = value
    with pytest.raises(SteerError, match=message):
        ActivationFile(path)


def test_a_file_of_another_model_revision_or_set_is_refused_with_both_names(path: Path) -> None:
    ids = [prompt.id for prompt in PROMPTS]
    with pytest.raises(SteerError, match="another model: expected `m2`, found `m1`"):
        ActivationFile(path, model="m2")
    with pytest.raises(SteerError, match="another revision: expected `abc`, found ``"):
        ActivationFile(path, revision="abc")
    with pytest.raises(SteerError, match="other prompts: expected 9, found 10"):
        ActivationFile(path, prompt_ids=ids[:-1])
    with pytest.raises(SteerError, match="row 2: expected `p3`, found `p2`"):
        ActivationFile(path, prompt_ids=[*ids[:2], ids[3], ids[2], *ids[4:]])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="no such file"):
        ActivationFile(tmp_path / "a.h5")
