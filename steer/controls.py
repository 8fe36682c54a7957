"""Which arms are controls, and of which arm: what an effect has to exceed before experts are claimed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PICKED = ("matched", "bottom", "random")
PUSHES = ("expert_add", "experts_add")
ROUTERS = ("reroute", "bias_router")
_COUNTED = ("operation", "polarity", "activated", "deactivated", "numbers", "strength")


@dataclass(frozen=True)
class Compared:
    """An arm that something is to be said of.

    Attributes:
        polarity: `suppress` or `induce`.
        controls: arms that do the same with matched, random or low-ranked experts, or a random direction.
        experts: whether it acts on experts.
        locates: whether its effect says where refusal is: it takes experts away or calls others. A push along
            an expert's direction steers whatever reads the residual stream, wherever refusal is.
    """

    polarity: str
    controls: tuple[str, ...]
    experts: bool
    locates: bool


def is_control(arm: Mapping[str, Any]) -> bool:
    """Whether an arm is there to be compared with another one."""
    return arm.get("direction") == "random" or arm.get("experts") in PICKED


def compared(arms: Mapping[str, Mapping[str, Any]], ranking: str | None = None) -> dict[str, Compared]:
    """Every arm on experts, and every other arm that has controls; their parts and the controls are none.

    Args:
        arms: settings by name, in the form that JSON gives them.
        ranking: the one that experts are of where an arm on routers names none.
    """
    controls = {name: arm for name, arm in arms.items() if is_control(arm)}
    found = {
        name: Compared(
            arm["polarity"],
            tuple(other for other, one in controls.items() if _is_of(one, name, arm, ranking)),
            "experts" in arm,
            "experts" in arm and arm["operation"] not in PUSHES,
        )
        for name, arm in arms.items()
        if arm["operation"] != "none" and "of" not in arm and not is_control(arm)
    }
    return {name: arm for name, arm in found.items() if arm.experts or arm.controls}


def _is_of(control: Mapping[str, Any], name: str, arm: Mapping[str, Any], ranking: str | None) -> bool:
    if control["operation"] not in ROUTERS or arm["operation"] not in ROUTERS:
        # What a control does must be the same, or an easy one would make claims easier.
        same = all(control.get(key) == arm.get(key) for key in ("operation", "polarity", "factor"))
        return same and control.get("like") == (arm.get("like") or name)
    # Controls of detected experts are as many others; named ones have none.
    named = bool(arm["activate"] or arm["deactivate"])
    ranked = (control.get("ranking") or ranking) == (arm.get("ranking") or ranking)
    return ranked and not named and all(control.get(setting) == arm.get(setting) for setting in _COUNTED)
