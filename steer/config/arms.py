"""Interventions to compare with the unsteered model: what each kind of operation lets one set."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from steer.config.arms_experts import BiasArm, ExpertDirectionArm, ExpertGateArm, RerouteArm
from steer.config.arms_stream import BaselineArm, ReplayArm, ResidualArm, SwapArm

ArmSettings = Annotated[
    BaselineArm
    | ResidualArm
    | ExpertDirectionArm
    | ExpertGateArm
    | RerouteArm
    | BiasArm
    | SwapArm
    | ReplayArm,
    Field(discriminator="operation"),
]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(ArmSettings)


def parse_arm(values: Mapping[str, Any]) -> Any:
    """The settings of one arm, of the class that its operation asks for.

    Raises:
        ValidationError: the operation is unknown, or a setting does not fit it.
    """
    return _ADAPTER.validate_python(dict(values))
