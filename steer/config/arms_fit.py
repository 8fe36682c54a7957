"""What arms must agree on: with each other, with models that are built here, with what is recorded."""

from collections.abc import Iterator, Mapping
from typing import TypeGuard

from steer.config.arm_base import CopyingArm, DrawnArm
from steer.config.arms import ArmSettings
from steer.config.arms_experts import ExpertArm, ExpertDirectionArm, ExpertGateArm, RouterArm
from steer.config.arms_stream import BaselineArm, ReplayArm, ResidualArm, SwapArm
from steer.config.models import ModelSettings, Size
from steer.config.names import known_names


def check_arms(arms: Mapping[str, ArmSettings], models: Mapping[str, ModelSettings], positions: int) -> None:
    """Check what can be known before anything runs.

    Raises:
        ValueError: an arm copies or takes apart one that it can't, or names a part that is not there.
    """
    for name, arm in arms.items():
        _check_like(name, arm, arms)
        for key, position in _named_positions(arm):
            if position < -positions:
                raise ValueError(
                    f"`arms.{name}.{key}`: {position}, but the last {positions} prompt tokens are"
                    " recorded (`activations.positions`)"
                )
        for model, settings in models.items():
            if settings.size:
                _check_parts(name, arm, model, settings.size)
                _check_numbers(name, arm, model, settings.size)


def acts_on_experts(arm: ArmSettings) -> bool:
    """Whether an arm needs a model with MoE layers."""
    return isinstance(arm, ExpertDirectionArm | ExpertGateArm | RouterArm | ReplayArm)


def _check_parts(name: str, arm: ArmSettings, model: str, size: Size) -> None:
    if acts_on_experts(arm) and not size.experts:
        cause = f"acts on experts or their routing, and model `{model}` is dense; remove one of the two"
        raise ValueError(f"`arms.{name}`: {cause} (`{name}: false` in an override)")
    there = f"model `{model}` has layers 0 to {size.layers - 1}{_experts_there(size)}"
    for key, layer in _named_layers(arm):
        if layer >= size.layers:
            raise ValueError(f"`arms.{name}.{key}`: {layer}, but {there}")
    for key, (at, expert) in _named_experts(arm):
        if at not in size.moe_layers or expert >= size.experts:
            raise ValueError(f"`arms.{name}.{key}`: [{at}, {expert}], but {there}")
    for key, layer, avoided in _avoided(arm) if size.top_k else ():
        if size.experts - avoided < size.top_k:
            cause = f"{avoided} of {size.experts} experts of layer {layer} are avoided"
            raise ValueError(f"`arms.{name}.{key}`: {cause}, and every token of `{model}` needs {size.top_k}")


def _check_numbers(name: str, arm: ArmSettings, model: str, size: Size) -> None:
    if isinstance(arm, RouterArm) and size.experts:
        own = arm.of_model(model)
        asked, there = (own.activated or 0) + (own.deactivated or 0), size.experts * len(size.moe_layers)
        if asked > there:
            raise ValueError(f"`arms.{name}`: reroutes {asked} experts, and model `{model}` has {there}")
        if own.experts != "detected" and 2 * asked > there:
            cause = f"wants {asked} others than the {asked} that it stands for"
            raise ValueError(f"`arms.{name}`: {cause}, and model `{model}` has {there}")


def _avoided(arm: ArmSettings) -> Iterator[tuple[str, int, int]]:
    """Key, layer, and how many experts of it an arm keeps from being chosen."""
    key = "deactivate" if isinstance(arm, RouterArm) else "experts"
    if isinstance(arm, RouterArm) or arm.operation == "mask_experts":
        named = getattr(arm, key)
        layers = [layer for layer, _ in {*named}] if isinstance(named, tuple) else []
        yield from ((key, layer, layers.count(layer)) for layer in dict.fromkeys(layers))


def _experts_there(size: Size) -> str:
    if not size.experts:
        return ""
    told = f" with experts 0 to {size.experts - 1}"
    if len(size.moe_layers) == size.layers:
        return told
    return f",{told} in layers {', '.join(map(str, size.moe_layers))}"


def _named_positions(arm: ArmSettings) -> Iterator[tuple[str, int]]:
    if isinstance(arm, SwapArm):
        yield from (("positions", position) for position in arm.positions or ())
    elif (position := getattr(arm, "position", None)) is not None:
        yield "position", position


def _named_layers(arm: ArmSettings) -> Iterator[tuple[str, int]]:
    if isinstance(arm, SwapArm):
        yield from (("layers", layer) for layer in arm.layers or ())
    elif (layer := getattr(arm, "layer", None)) is not None:
        yield "layer", layer


def _named_experts(arm: ArmSettings) -> Iterator[tuple[str, tuple[int, ...]]]:
    for key in ("experts", "activate", "deactivate"):
        named = getattr(arm, key, None)
        if isinstance(named, tuple):
            yield from ((key, expert) for expert in named)


def like_of(arm: ArmSettings) -> str | None:
    """The arm that an arm copies its dose from."""
    return getattr(arm, "like", None)


def _check_taken_apart(name: str, arm: ReplayArm, arms: Mapping[str, ArmSettings]) -> None:
    known_names("arm", {f"arms.{name}.of": arm.of}, arms)
    other = arms[arm.of]
    if isinstance(other, BaselineArm | ReplayArm):
        raise ValueError(f"`arms.{name}.of`: `{arm.of}` edits nothing that could be taken apart")
    if other.polarity != arm.polarity:
        cause = f"is {arm.polarity}, and `{arm.of}`, which it is a part of, is {other.polarity}"
        raise ValueError(f"`arms.{name}.polarity`: {cause}; give it `polarity: {other.polarity}` too")


def _check_like(name: str, arm: ArmSettings, arms: Mapping[str, ArmSettings]) -> None:
    if isinstance(arm, ReplayArm):
        _check_taken_apart(name, arm, arms)
    like = like_of(arm)
    if like is None:
        return
    other = arms[like]
    if isinstance(other, BaselineArm) or like_of(other):
        raise ValueError(f"`arms.{name}.like`: `{like}` has no dose of its own to copy")
    if isinstance(other, DrawnArm) and isinstance(arm, CopyingArm) and other.polarity != arm.polarity:
        cause = f"is {arm.polarity}, and `{like}`, whose dose it copies, is {other.polarity}"
        raise ValueError(f"`arms.{name}.polarity`: {cause}; give it `polarity: {other.polarity}` too")
    if isinstance(arm, ExpertDirectionArm | ExpertGateArm):
        _check_same_experts(name, arm, other)
    elif not isinstance(other, ResidualArm):
        raise ValueError(f"`arms.{name}.like`: `{like}` does not edit the residual stream, and the arm does")


def _check_same_experts(name: str, arm: ExpertArm, other: ArmSettings) -> None:
    """A gate names no direction, so that gates alone can be like one."""
    likes = ExpertDirectionArm | ExpertGateArm if isinstance(arm, ExpertGateArm) else ExpertDirectionArm
    if not isinstance(other, likes):
        raise ValueError(f"`arms.{name}.like`: `{arm.like}` has no experts to copy")
    if (arm.operation == "experts_add") != (other.operation == "experts_add"):
        cause = f"one of it and `{arm.like}` edits every expert of a layer, the other does not"
        raise ValueError(f"`arms.{name}.like`: {cause}")


def is_part(arm: ArmSettings) -> TypeGuard[ExpertDirectionArm]:
    """Whether an arm is of selected experts, whose share of a whole edit's effect is of interest."""
    return isinstance(arm, ExpertDirectionArm) and arm.selected and not arm.drawn


def is_whole(arm: ArmSettings) -> TypeGuard[ResidualArm]:
    """Whether an arm edits the residual stream along the estimated direction, and one alone."""
    return isinstance(arm, ResidualArm) and arm.like is None and arm.rank == 1 and not arm.drawn
