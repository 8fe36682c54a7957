"""Arm files: the tensors of one intervention, and its operations as data."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, get_args

from steer.artifacts.files import canonical_json
from steer.artifacts.provenance import digest
from steer.artifacts.tensors import read_tensors, write_tensors
from steer.errors import SteerError
from steer.models.interventions import Arm, Donors, Operation, Pairing

# Written whatever their value.
FIRST_FIELDS = ("operation", "tensor", "layer", "coefficient", "scope")


def write_arm(
    path: Path | str,
    arm: Arm,
    *,
    model: str,
    provenance: Mapping[str, Any],
    measured: Mapping[str, Any] | None = None,
) -> None:
    """Write one arm for the model of digest `model`; the baseline is an arm without operations.

    What was `measured` to make it, by name, is kept for the reader and is no part of what it does.
    """
    metadata = {"arm": arm.name, "operations": canonical_json([_data(one) for one in arm.operations])}
    if arm.twin:
        metadata["twin"] = canonical_json([_data(one) for one in arm.twin])
    if arm.donors:
        metadata["donors"] = canonical_json(asdict(arm.donors))
    if measured:
        metadata["measured"] = canonical_json(dict(measured))
    write_tensors(path, arm.tensors, model=model, provenance=provenance, metadata=metadata)


def read_arm(path: Path | str, *, model: str) -> Arm:
    """Read an arm that was made for the model of digest `model`.

    Raises:
        SteerError: the file is missing, cut short, of another model, or its operations are malformed.
    """
    file = read_tensors(path, model=model, shapes={})
    try:
        operations = _operations(file.metadata["operations"])
        twin, donors = _operations(file.metadata.get("twin", "[]")), _donors(file.metadata.get("donors"))
        return Arm(file.metadata["arm"], operations, file.tensors, twin, donors)
    except (KeyError, TypeError, ValueError) as error:
        raise SteerError(
            str(path), f"does not hold an intervention ({error})", "remove the file and run again"
        ) from error


def arm_digest(arm: Arm) -> str:
    """Identity of what an arm does: operations and tensors, whatever its name and origin."""
    tensors = {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in arm.tensors.items()
    }
    parts: list[Any] = [[_data(operation) for operation in arm.operations], tensors]
    if arm.twin:
        parts.append([_data(operation) for operation in arm.twin])
    return digest([*parts, asdict(arm.donors)] if arm.donors else parts)


def _data(operation: Operation) -> dict[str, Any]:
    """Fields of an operation, without those that are new or as they are by default.

    So a file says what matters, and a field that is added later leaves the digests of older arms alone.
    """
    found = {}
    for one in fields(operation):
        value = getattr(operation, one.name)
        if one.name in FIRST_FIELDS or one.default is MISSING or value != one.default:
            found[one.name] = list(value) if isinstance(value, tuple) else value
    return found


def _donors(text: str | None) -> Donors | None:
    if text is None:
        return None
    found = json.loads(text)
    ids, texts = tuple(map(str, found["ids"])), tuple(map(str, found["texts"]))
    if found["pairing"] not in get_args(Pairing) or not ids or len(ids) != len(texts):
        raise ValueError("its donors are malformed")
    return Donors(found["pairing"], ids, texts)


def _operations(text: str) -> tuple[Operation, ...]:
    return tuple(_operation(one) for one in json.loads(text))


def _operation(data: Mapping[str, Any]) -> Operation:
    values = dict(data)
    for one in fields(Operation):
        if one.default == () and one.name in values:
            values[one.name] = _indices(one.name, values[one.name])
    return Operation(**values)


def _indices(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(index) is int for index in value):
        raise ValueError(f"`{name}` is {value!r}, not a list of whole numbers")
    return tuple(value)
