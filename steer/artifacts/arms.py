"""Arm files: the tensors of one intervention, and its operations as data."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steer.artifacts.files import canonical_json
from steer.artifacts.provenance import digest
from steer.artifacts.tensors import read_tensors, write_tensors
from steer.errors import SteerError
from steer.models.interventions import Arm, Operation


def write_arm(path: Path | str, arm: Arm, *, model: str, provenance: Mapping[str, Any]) -> None:
    """Write one arm for the model of digest `model`; the baseline is an arm without operations."""
    operations = canonical_json([asdict(operation) for operation in arm.operations])
    metadata = {"arm": arm.name, "operations": operations}
    write_tensors(path, arm.tensors, model=model, provenance=provenance, metadata=metadata)


def read_arm(path: Path | str, *, model: str) -> Arm:
    """Read an arm that was made for the model of digest `model`.

    Raises:
        SteerError: the file is missing, cut short, of another model, or its operations are malformed.
    """
    file = read_tensors(path, model=model, shapes={})
    try:
        operations = tuple(Operation(**operation) for operation in json.loads(file.metadata["operations"]))
        return Arm(file.metadata["arm"], operations, file.tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise SteerError(
            str(path), f"does not hold an intervention ({error})", "remove the file and run again"
        ) from error


def arm_digest(arm: Arm) -> str:
    """Identity of what an arm does: operations and tensors, whatever its name and origin."""
    tensors = {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in arm.tensors.items()
    }
    return digest([[asdict(operation) for operation in arm.operations], tensors])
