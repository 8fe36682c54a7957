"""Tensors by name, with where they came from: safetensors files of the contract."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from steer.artifacts import CONTRACT_VERSION
from steer.artifacts.files import atomic_path, canonical_json
from steer.errors import SteerError

REBUILD = "remove the file and run again, so that the stage that makes it rebuilds it"


@dataclass(frozen=True)
class TensorFile:
    """What a tensor file holds.

    Attributes:
        tensors: the tensors by name.
        metadata: strings by name: `contract`, `model` (digest of the checkpoint), `provenance` (JSON)
            and whatever else the stage wrote.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def write_tensors(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    *,
    model: str,
    provenance: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors atomically; equal content gives equal bytes.

    Args:
        path: the file.
        tensors: finite tensors by name.
        model: digest of the checkpoint that they belong to.
        provenance: where they came from, JSON-able.
        metadata: further strings by name.

    Raises:
        SteerError: a tensor holds NaN or infinity, or the disk is full.
    """
    _check_finite(Path(path), tensors)
    strings = {
        **(metadata or {}),
        "contract": str(CONTRACT_VERSION),
        "model": model,
        "provenance": canonical_json(provenance),
    }
    plain = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    content = safetensors.torch.save(plain, metadata=strings)
    with atomic_path(path) as partial:
        partial.write_bytes(_with_sorted_header(content))


def _with_sorted_header(content: bytes) -> bytes:
    # safetensors (0.8) writes the metadata keys in another order in every process.
    length = int.from_bytes(content[:8], "little")
    header = canonical_json(json.loads(content[8 : 8 + length])).encode()
    padded = header.ljust(-len(header) % 8 + len(header))
    return len(padded).to_bytes(8, "little") + padded + content[8 + length :]


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise SteerError(
                str(path),
                f"tensor `{name}` holds NaN or infinity",
                "look at the weights and the activations that it was made from",
            )


def read_tensors(path: Path | str, *, model: str, shapes: Mapping[str, Sequence[int]]) -> TensorFile:
    """Read a tensor file and check that it is the one that is meant.

    Args:
        path: the file.
        model: digest of the checkpoint that it must belong to.
        shapes: the float32 tensors that it must have; it may have others.

    Raises:
        SteerError: the file is missing, cut short, of another contract or model, lacks a tensor, or
            has one of another shape or type, or one that holds NaN or infinity.
    """
    path = Path(path)
    file = _read(path)
    _check_origin(path, file.metadata, model)
    for name, shape in shapes.items():
        _check_tensor(path, name, file.tensors.get(name), tuple(shape))
    _check_finite(path, file.tensors)
    return file


def _read(path: Path) -> TensorFile:
    if not path.is_file():
        raise SteerError(str(path), "no such file", "run the stage that makes it first")
    try:
        with safe_open(path, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
            return TensorFile(tensors, stored.metadata() or {})
    except SafetensorError as error:
        raise SteerError(str(path), f"is cut short or is not safetensors ({error})", REBUILD) from error


def _check_origin(path: Path, metadata: Mapping[str, str], model: str) -> None:
    for key, expected in (("contract", str(CONTRACT_VERSION)), ("model", model)):
        found = metadata.get(key, "nothing")
        if found != expected:
            raise SteerError(str(path), f"is of another {key}: expected {expected}, found {found}", REBUILD)


def _check_tensor(path: Path, name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    if tensor is None:
        raise SteerError(str(path), f"lacks tensor `{name}`", REBUILD)
    found = (tuple(tensor.shape), tensor.dtype)
    if found != (shape, torch.float32):
        expected = f"{list(shape)} float32"
        raise SteerError(
            str(path),
            f"tensor `{name}` is {list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')},"
            f" expected {expected}",
            REBUILD,
        )
