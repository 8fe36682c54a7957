"""Check that an arm can fire on a model, before anything runs."""

import math

import torch
from torch import Tensor

from steer.errors import SteerError
from steer.models.interventions import SCOPES, Arm, Operation
from steer.models.loading import LoadedModel

KINDS = ("add", "ablate", "affine")
# Wide enough for a basis that was stored in half precision.
ORTHONORMAL_TOLERANCE = 1e-2


def check_arm(loaded: LoadedModel, arm: Arm) -> None:
    """Check that an arm can fire on a model.

    Raises:
        SteerError: an unknown operation or scope, a layer out of range (or one given to an ablation), a
            coefficient that is not finite, a tensor that is missing, of another shape, not finite, zero,
            or, for an ablation, not orthonormal.
    """
    for operation in arm.operations:
        where = f"arm `{arm.name}`, operation `{operation.operation}`"
        _check_words(where, operation)
        _check_layer(loaded, where, operation)
        if operation.tensor not in arm.tensors:
            raise SteerError(where, f"has no tensor `{operation.tensor}`", "build the arm again")
        _check_shape(loaded, where, operation, arm.tensors[operation.tensor])
        _check_values(where, operation, arm.tensors[operation.tensor].double())


def _check_words(where: str, operation: Operation) -> None:
    words = (("operation", operation.operation, KINDS), ("scope", operation.scope, SCOPES))
    for what, word, known in words:
        if word not in known:
            raise SteerError(where, f"`{word}` is not a known {what}", f"choose one of {', '.join(known)}")
    if not math.isfinite(operation.coefficient):
        raise SteerError(where, f"its coefficient is {operation.coefficient}", "give a finite number")


def _check_layer(loaded: LoadedModel, where: str, operation: Operation) -> None:
    if operation.operation == "ablate":
        if operation.layer is not None:
            cause = f"names layer {operation.layer}, but an ablation acts on every layer"
            raise SteerError(where, cause, "leave the layer out")
    elif operation.layer not in range(loaded.layers):
        raise SteerError(
            where,
            f"layer {operation.layer} is not one of the {loaded.layers} layers of {loaded.name}",
            f"choose a layer from 0 to {loaded.layers - 1}",
        )


def _check_shape(loaded: LoadedModel, where: str, operation: Operation, tensor: Tensor) -> None:
    expected = {"add": "[d]", "ablate": "[k, d]", "affine": "[2, d]"}[operation.operation]
    rows = {"add": (), "ablate": (max(len(tensor), 1),), "affine": (2,)}[operation.operation]
    if tuple(tensor.shape) != (*rows, loaded.hidden_size):
        raise SteerError(
            where,
            f"tensor `{operation.tensor}` is {list(tensor.shape)}, expected {expected}"
            f" with the width d = {loaded.hidden_size} of {loaded.name}",
            "use directions that were estimated on this model",
        )


def _check_values(where: str, operation: Operation, tensor: Tensor) -> None:
    # The harmless mean of `affine` may be anything finite.
    direction = tensor[0] if operation.operation == "affine" else tensor
    if not bool(torch.isfinite(tensor).all()) or not bool((direction != 0).any()):
        raise SteerError(
            where,
            f"tensor `{operation.tensor}` is zero or not finite, so the arm can't fire",
            "choose another layer and position (the input of layer 0 is the same for both classes)",
        )
    if operation.operation == "ablate":
        error = float((tensor @ tensor.T - torch.eye(len(tensor)).to(tensor)).abs().max())
        if error > ORTHONORMAL_TOLERANCE:
            cause = f"the rows of tensor `{operation.tensor}` are not orthonormal (error {error:.2g})"
            raise SteerError(where, cause, "make the basis with `orthonormal_basis`")
