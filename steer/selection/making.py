"""From a setting of the configuration to the tensors and operations of an arm."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steer.config import ArmSettings
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


def signed(settings: ArmSettings, coefficient: float) -> float:
    """The coefficient with the polarity's sign: suppressing subtracts what inducing adds."""
    subtracted = settings.polarity == "suppress" and settings.operation != "ablate" and coefficient != 0
    return -coefficient if subtracted else coefficient


def _direction(
    settings: ArmSettings, directions: Directions, layer: int, position: int
) -> Float[Tensor, " d"]:
    refusal = directions.at(layer, position)
    if settings.direction == "refusal":
        return refusal
    generator = torch.Generator().manual_seed(settings.seed)
    random = torch.randn(refusal.shape, generator=generator, dtype=torch.float64)
    scaled: Tensor = random * (refusal.double().norm() / random.norm())
    return scaled.float()


def make_arm(
    name: str,
    settings: ArmSettings,
    directions: Directions,
    dose: Dose,
    best: list[tuple[int, int]] | None = None,
) -> Arm:
    """Build an arm.

    Args:
        name: its name.
        settings: what it does.
        directions: the estimated directions.
        dose: where and how strongly.
        best: places of the further directions that an `ablate` of rank above one removes as well.
    """
    if settings.operation == "none":
        return Arm(name)
    direction = _direction(settings, directions, dose.layer, dose.position)
    if settings.operation == "ablate":
        places = [place for place in best or [] if place != (dose.layer, dose.position)][: settings.rank - 1]
        others = [_direction(settings, directions, *place) for place in places]
        basis = orthonormal_basis(torch.stack([direction, *others]))
        return Arm(
            name, (Operation("ablate", "basis", None, dose.coefficient, dose.scope),), {"basis": basis}
        )
    coefficient = signed(settings, dose.coefficient)
    if settings.operation == "add":
        operation = Operation("add", "direction", dose.layer, coefficient, dose.scope)
        return Arm(name, (operation,), {"direction": direction.contiguous()})
    harmless = directions.harmless_mean[dose.layer, dose.position]
    operation = Operation("affine", "direction_and_mean", dose.layer, coefficient, dose.scope)
    return Arm(name, (operation,), {"direction_and_mean": torch.stack([direction, harmless])})
