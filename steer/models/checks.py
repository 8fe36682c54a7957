"""Check that an arm can fire on a model, before anything runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from jaxtyping import Int
from torch import Tensor

from steer.errors import SteerError
from steer.models.architectures import head_count
from steer.models.edits.registry import COMMON, ENTRIES
from steer.models.interventions import COMPONENTS, KINDS, SCOPES, WEIGHTINGS, Arm, Operation
from steer.models.loading import LoadedModel

# Wide enough for a basis that was stored in half precision.
ORTHONORMAL_TOLERANCE = 1e-2


def check_arm(loaded: LoadedModel, arm: Arm) -> None:
    """Check that an arm can fire on a model.

    Raises:
        SteerError: an unknown operation or scope, a field that has no meaning for its kind, a layer, expert
            or head that the model does not have (or a layer given to an ablation), a coefficient that is not
            finite, a tensor that is missing, of another shape, not finite, zero, or, for an ablation, not
            orthonormal; a twin that has a twin.
    """
    for operation in (*arm.operations, *arm.twin):
        where = f"arm `{arm.name}`, operation `{operation.operation}`"
        _check_words(where, operation)
        _check_layer(loaded, where, operation)
        _check_indices(loaded, where, operation)
        entry = ENTRIES[operation.operation]
        if entry.tensor is not None and (operation.tensor or not entry.optional):
            if operation.tensor not in arm.tensors:
                raise SteerError(where, f"has no tensor `{operation.tensor}`", "build the arm again")
            _check_shape(loaded, where, operation, arm.tensors[operation.tensor])
            _check_values(where, operation, arm.tensors[operation.tensor].double())
    if any(operation.operation == "replay_routing" for operation in arm.twin):
        raise SteerError(
            f"arm `{arm.name}`", "its twin replays a routing too", "let the twin route by itself"
        )


def check_positions(
    arms: Sequence[Arm], prompt_mask: Int[Tensor, "batch prompt_tokens"], donors: Mapping[int, int]
) -> None:
    """Check that every prompt, and that of its donor, has the positions that are swapped.

    Raises:
        SteerError: a prompt is shorter than a position is far from its end.
    """
    lengths: list[int] = prompt_mask.sum(dim=1).tolist()
    for row, arm in enumerate(arms):
        first = min((place for one in arm.operations for place in one.positions), default=0)
        shortest = min(lengths[row], lengths[donors.get(row, row)])
        if -first > shortest:
            cause = f"swaps position {first}, and its prompt or donor has {shortest} tokens"
            raise SteerError(f"arm `{arm.name}`, row {row}", cause, "swap later positions, or leave it out")


def _check_words(where: str, operation: Operation) -> None:
    words = (
        ("operation", operation.operation, KINDS),
        ("scope", operation.scope, SCOPES),
        ("weighting", operation.weighting, WEIGHTINGS),
        ("component", operation.component, COMPONENTS),
    )
    for what, word, known in words:
        if word not in known:
            raise SteerError(where, f"`{word}` is not a known {what}", f"choose one of {', '.join(known)}")
    if not math.isfinite(operation.coefficient):
        raise SteerError(where, f"its coefficient is {operation.coefficient}", "give a finite number")
    entry = ENTRIES[operation.operation]
    used = {*COMMON, *entry.uses, *(["tensor"] if entry.tensor else [])}
    for one in fields(operation):
        if one.name not in used and getattr(operation, one.name) != one.default:
            raise SteerError(where, f"`{one.name}` means nothing to it", "leave the field out")
    if operation.operation == "swap" and operation.scope != "prompt":
        raise SteerError(where, f"its scope is `{operation.scope}`", "a swap acts on the `prompt` alone")


def _check_layer(loaded: LoadedModel, where: str, operation: Operation) -> None:
    layers, moe = ENTRIES[operation.operation].layers, loaded.sites.moe_layers
    if layers.startswith("moe") and not moe:
        cause = f"acts on experts, and {loaded.name} has none"
        raise SteerError(where, cause, "a dense model has residual and attention arms only")
    if layers == "every":
        if operation.layer is not None:
            cause = f"names layer {operation.layer}, but an ablation acts on every layer"
            raise SteerError(where, cause, "leave the layer out")
    elif operation.layer is None and layers == "moe or every":
        return
    elif operation.layer not in range(loaded.layers):
        raise SteerError(
            where,
            f"layer {operation.layer} is not one of the {loaded.layers} layers of {loaded.name}",
            f"choose a layer from 0 to {loaded.layers - 1}",
        )
    elif layers.startswith("moe") and operation.layer not in moe:
        cause = f"layer {operation.layer} of {loaded.name} is dense"
        raise SteerError(where, cause, f"choose one of its MoE layers: {', '.join(map(str, moe))}")


def _check_indices(loaded: LoadedModel, where: str, operation: Operation) -> None:
    experts, heads = range(loaded.experts), range(head_count(loaded.model))
    checked = {"experts": experts, "activate": experts, "deactivate": experts, "heads": heads}
    for name, known in checked.items():
        indices: tuple[int, ...] = getattr(operation, name)
        if wrong := [index for index in indices if index not in known]:
            cause = f"`{name}` {wrong} are not in {loaded.name}, which has {len(known)} in a layer"
            raise SteerError(where, cause, f"choose from 0 to {len(known) - 1}")
        if len(set(indices)) < len(indices):
            raise SteerError(where, f"`{name}` names one twice: {list(indices)}", "name each once")
    if both := sorted(set(operation.activate) & set(operation.deactivate)):
        raise SteerError(
            where, f"experts {both} are both activated and deactivated", "leave each in one list"
        )
    if wrong := [place for place in operation.positions if place >= 0]:
        raise SteerError(where, f"positions {wrong} don't count from the end", "-1 is the last prompt token")


def _check_shape(loaded: LoadedModel, where: str, operation: Operation, tensor: Tensor) -> None:
    expected = str(ENTRIES[operation.operation].tensor)
    if operation.operation == "swap" and tensor.ndim == 3:
        cause = f"tensor `{operation.tensor}` holds {len(tensor)} donors, and the prompt has no pair yet"
        raise SteerError(where, cause, "pick one with `donors.with_donor`")
    rows = {
        "[d]": (),
        "[k, d]": (max(len(tensor), 1),),
        "[2, d]": (2,),
        "[n, d]": (max(len(operation.experts), 1),),
        "[E, d]": (loaded.experts,),
        "[p, d]": (len(operation.positions),),
    }[expected]
    if tuple(tensor.shape) != (*rows, loaded.hidden_size):
        counts = {
            "n": f" and n = {len(operation.experts)} experts",
            "E": f" and its E = {loaded.experts} experts",
            "p": f" and p = {len(operation.positions)} positions",
        }
        raise SteerError(
            where,
            f"tensor `{operation.tensor}` is {list(tensor.shape)}, expected {expected}"
            f" with the width d = {loaded.hidden_size} of {loaded.name}{counts.get(expected[1], '')}",
            "use directions that were estimated on this model",
        )


def _check_values(where: str, operation: Operation, tensor: Tensor) -> None:
    # The harmless mean of `affine` may be anything finite.
    direction = tensor[0] if operation.operation == "affine" else tensor
    if operation.operation == "swap" and bool(torch.isfinite(tensor).all()):
        return  # Any finite activations are some prompt's.
    # Every expert that is named needs a direction; of all experts of a layer, some may never be used.
    zero = direction.norm(dim=-1) == 0
    empty = zero.any() if operation.operation in ("expert_add", "expert_ablate") else zero.all()
    if not bool(torch.isfinite(tensor).all()) or bool(empty):
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
