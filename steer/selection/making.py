"""From a setting of the configuration to the tensors and operations of an arm on the residual stream."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steer.config import ResidualArm
from steer.config.arm_base import Polarity
from steer.errors import SteerError
from steer.models.interventions import Arm, Operation, Scope, orthonormal_basis
from steer.selection.candidates import Directions


@dataclass(frozen=True)
class Dose:
    """Where and how strongly an arm acts.

    Attributes:
        layer: layer whose direction is used (and whose input is edited, by `add` and `affine`).
        position: prompt position, from the end, that the direction was estimated at.
        coefficient: multiple of the direction, without the sign that the polarity gives it.
        scope: tokens that are edited.
    """

    layer: int
    position: int
    coefficient: float = 1.0
    scope: Scope = "all"


def sign_of(polarity: Polarity) -> float:
    """Suppressing subtracts what inducing adds."""
    return -1.0 if polarity == "suppress" else 1.0


def signed(settings: ResidualArm, coefficient: float) -> float:
    """The coefficient with the polarity's sign."""
    # An ablation has none, and no dose is a negative zero.
    unsigned = settings.operation == "ablate" or coefficient == 0
    return coefficient if unsigned else sign_of(settings.polarity) * coefficient


def random_like(vectors: Float[Tensor, "n d"], seed: int) -> Float[Tensor, "n d"]:
    """Random directions of the norms of these."""
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(vectors.shape, generator=generator, dtype=torch.float64)
    scale: Tensor = vectors.double().norm(dim=-1, keepdim=True) / random.norm(dim=-1, keepdim=True)
    return (random * scale).float()


def _vectors(
    settings: ResidualArm, directions: Directions, places: Sequence[tuple[int, int]]
) -> Float[Tensor, "places d"]:
    """The refusal direction of each place, or random directions of their norms."""
    refusal = torch.stack([directions.at(*place) for place in places])
    return refusal if settings.direction == "refusal" else random_like(refusal, settings.seed)


def _basis(name: str, vectors: Float[Tensor, "k d"], rank: int) -> Float[Tensor, "k d"]:
    """An orthonormal basis of `rank` vectors.

    Raises:
        SteerError: there are fewer of them, or they span less.
    """
    basis = orthonormal_basis(vectors)
    if len(basis) < rank:
        raise SteerError(
            f"arm `{name}`",
            f"is of rank {rank}, but its selection offers {len(basis)} independent directions",
            "lower `rank`, or loosen the thresholds of the selection",
        )
    return basis


def make_arm(
    name: str,
    settings: ResidualArm,
    directions: Directions,
    dose: Dose,
    best: Sequence[tuple[int, int]] = (),
) -> Arm:
    """Build an arm.

    Args:
        name: its name.
        settings: what it does.
        directions: the estimated directions.
        dose: where and how strongly.
        best: places of the further directions that an `ablate` of rank above one removes as well.

    Raises:
        SteerError: no direction was estimated at the place, or there are fewer than the rank asks for.
    """
    place = (dose.layer, dose.position)
    if settings.operation == "ablate":
        others = [other for other in best if other != place][: settings.rank - 1]
        basis = _basis(name, _vectors(settings, directions, [place, *others]), settings.rank)
        operation = Operation("ablate", "basis", None, dose.coefficient, dose.scope)
        return Arm(name, (operation,), {"basis": basis})
    direction = _vectors(settings, directions, [place])[0]
    coefficient = signed(settings, dose.coefficient)
    if settings.operation == "add":
        operation = Operation("add", "direction", dose.layer, coefficient, dose.scope)
        return Arm(name, (operation,), {"direction": direction})
    harmless = directions.harmless_mean[place]
    operation = Operation("affine", "direction_and_mean", dose.layer, coefficient, dose.scope)
    return Arm(name, (operation,), {"direction_and_mean": torch.stack([direction, harmless])})
