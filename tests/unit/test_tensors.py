import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from steer.artifacts.tensors import read_tensors, write_tensors
from steer.errors import SteerError

SHAPES = {"b.direction": (3, 2), "a": (4,)}


def _tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(*shape, generator=generator) for name, shape in SHAPES.items()}


def _write(path: Path, **changes: Tensor) -> Path:
    tensors = {**_tensors(), **changes}
    write_tensors(path, tensors, model="m1", provenance={"stage": "s"}, metadata={"operations": "[]"})
    return path


def test_tensors_and_metadata_read_back(tmp_path: Path) -> None:
    file = read_tensors(_write(tmp_path / "a.safetensors"), model="m1", shapes=SHAPES)
    for name, tensor in _tensors().items():
        assert torch.equal(file.tensors[name], tensor)
    assert file.metadata == {
        "contract": "1",
        "model": "m1",
        "operations": "[]",
        "provenance": '{"stage":"s"}',
    }


def test_the_library_itself_reads_the_file(tmp_path: Path) -> None:
    with safe_open(_write(tmp_path / "a.safetensors"), framework="numpy") as stored:
        assert sorted(stored.keys()) == sorted(SHAPES)
        assert stored.metadata()["model"] == "m1"


def test_views_and_types_other_than_float32_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    view = torch.arange(12.0).reshape(3, 4).T
    index = torch.tensor([1, 2], dtype=torch.int16)
    write_tensors(path, {"view": view, "index": index}, model="m1", provenance={})
    file = read_tensors(path, model="m1", shapes={"view": (4, 3)})
    assert torch.equal(file.tensors["view"], view)
    assert torch.equal(file.tensors["index"], index)


def test_equal_content_gives_equal_bytes_in_another_process_and_another_order(tmp_path: Path) -> None:
    script = (
        "import sys, torch; from steer.artifacts.tensors import write_tensors\n"
        "for name in ('1', '2', '3', '4'):\n"
        "    write_tensors(sys.argv[1] + name, {'b': torch.ones(3), 'a': torch.zeros(2)}, model='m',"
        " provenance={'x': 1}, metadata={'operations': '[]', 'arm': 'x'})\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "other")], check=True)
    here = tmp_path / "here"
    tensors = {"a": torch.zeros(2), "b": torch.ones(3)}
    metadata = {"arm": "x", "operations": "[]"}
    write_tensors(here, tensors, model="m", provenance={"x": 1}, metadata=metadata)
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {here.read_bytes()}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite_is_neither_written_nor_read(tmp_path: Path, value: float) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(SteerError, match="tensor `a` holds NaN or infinity"):
        _write(path, a=torch.tensor([0.0, value]))
    assert list(tmp_path.iterdir()) == []
    content = bytearray(_write(path).read_bytes())
    content[-4:] = torch.tensor([value]).numpy().tobytes()
    path.write_bytes(content)
    with pytest.raises(SteerError, match="holds NaN or infinity"):
        read_tensors(path, model="m1", shapes=SHAPES)


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.safetensors")
    with pytest.raises(SteerError, match="is of another model: expected m2, found m1"):
        read_tensors(path, model="m2", shapes=SHAPES)


def test_a_file_of_another_contract_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes().replace(b'"contract":"1"', b'"contract":"0"'))
    with pytest.raises(SteerError, match="is of another contract: expected 1, found 0"):
        read_tensors(path, model="m1", shapes=SHAPES)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"c": (1,)}, "lacks tensor `c`"),
        ({"a": (5,)}, r"tensor `a` is \[4\] float32, expected \[5\] float32"),
        ({"half": (1,)}, r"tensor `half` is \[1\] float16, expected \[1\] float32"),
    ],
)
def test_a_missing_or_misshapen_tensor_is_named(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    path = _write(tmp_path / "a.safetensors", half=torch.zeros(1, dtype=torch.float16))
    with pytest.raises(SteerError, match=message):
        read_tensors(path, model="m1", shapes=shapes)


@pytest.mark.parametrize("cut", [0, 4, 60, -1])
def test_a_file_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    path = _write(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(SteerError, match="is cut short or is not safetensors"):
        read_tensors(path, model="m1", shapes=SHAPES)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="no such file"):
        read_tensors(tmp_path / "a.safetensors", model="m1", shapes={})
