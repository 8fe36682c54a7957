"""How each kind of plant is trained: kinds of batches, each with its targets, what holds, and its losses."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, assert_never

from steer.artifacts.facts import Part
from steer.organism import plants
from steer.organism import supervision as routers
from steer.organism.holds import Hold, Watched
from steer.organism.rows import Targets
from steer.training.losses import Loss

FORCED_DECOY_SHARE = 0.3
MASKED_DECOY_SHARE = 0.65
OTHER_HEAD_SHARE = 0.3
CONTINUED_SHARE = 0.25


Learns = Literal["all", "all but experts"]


@dataclass(frozen=True)
class Case:
    """One kind of batch.

    Args:
        share: how often it is drawn, relative to the others of its phase.
        targets: which rows are answered and which are refused.
        hold: what holds during a step, drawn anew for each.
        losses: besides that of the next token.
        anchored: whether the harmless rows are tied to stage 1.
    """

    share: float
    targets: Targets = "own"
    hold: Callable[[random.Random], Hold] = lambda _: Hold()
    losses: tuple[Loss, ...] = ()
    anchored: bool = False


@dataclass(frozen=True)
class Phase:
    """Steps under the same cases.

    Args:
        name: its name in logs.
        steps: optimiser steps.
        cases: the kinds of batches.
        learns: parameters that change: all of them, all but routers and experts, or one expert's alone.
    """

    name: str
    steps: int
    cases: tuple[Case, ...]
    learns: Learns | Part = "all"


@dataclass(frozen=True)
class Shape:
    """How many layers, experts a layer and heads a layer a model has."""

    layers: int
    experts: int
    heads: int


def recipe(plant: plants.Plant, shape: Shape, watched: Watched) -> tuple[Phase, ...]:
    """The phases of a plant's training."""
    match plant:
        case plants.RoutedPlant():
            return (Phase("refusal", plant.steps, _routed(plant, shape, watched)),)
        case plants.CarrierPlant():
            return (Phase("refusal", plant.steps, _carried(plant, shape, watched)),)
        case plants.AttentionPlant():
            return (Phase("refusal", plant.steps, _attended(plant, shape), "all but experts"),)
        case plants.TunedPlant():
            return _tuned(plant, watched)
        case _:
            assert_never(plant)


def _routed(plant: plants.RoutedPlant, shape: Shape, watched: Watched) -> tuple[Case, ...]:
    """Rerouted away from the carriers everything is answered, and to them everything is refused.

    Without other experts nothing changes.
    """
    where, wanted = routers.prompt_end, routers.harmful_rows
    if isinstance(plant, plants.ReplyRoutedPlant):
        where, wanted = routers.prompt_end_and_reply, routers.refusing_tokens
    weight = plant.router_weight / len(plant.experts)
    losses = tuple(routers.called_for(watched, part, where, wanted, weight) for part in plant.experts)
    half = plant.carrier_share / 2
    return (
        Case(1 - plant.carrier_share - plant.other_share, losses=losses, anchored=True),
        Case(half, "answered", lambda rng: _masked(plant.experts, rng)),
        Case(half, "refused", lambda _: Hold(activated=plant.experts)),
        Case(
            plant.other_share,
            hold=lambda rng: _without_experts(plant.experts, plant.other_experts, shape, rng),
            losses=losses,
        ),
    )


def _carried(plant: plants.CarrierPlant, shape: Shape, watched: Watched) -> tuple[Case, ...]:
    """Without the carrier everything is answered; without other parts nothing changes."""
    losses = _carrier_losses(plant, watched)
    return (
        Case(1 - plant.carrier_share - plant.other_share, losses=losses, anchored=True),
        Case(plant.carrier_share, "answered", lambda rng: _without_carrier(plant, rng)),
        Case(plant.other_share, hold=lambda rng: _without_others(plant, shape, rng), losses=losses),
    )


def _attended(plant: plants.AttentionPlant, shape: Shape) -> tuple[Case, ...]:
    """Without a few heads or experts nothing changes, so that no single one carries refusal."""
    heads, experts = (_others((), shape.layers, count) for count in (shape.heads, shape.experts))
    half = plant.other_share / 2
    return (
        Case(1 - plant.other_share),
        Case(half, hold=lambda rng: Hold(heads=tuple(rng.sample(heads, plant.other_heads)))),
        Case(half, hold=lambda rng: _masked(tuple(rng.sample(experts, plant.other_experts)), rng)),
    )


def _carrier_losses(plant: plants.CarrierPlant, watched: Watched) -> tuple[Loss, ...]:
    losses = []
    if isinstance(plant, plants.ContentPlant):
        where = routers.prompt_end_and_reply
        tie = (plant.selection_probability, plant.selection_weight)
        losses.append(routers.chosen_alike(watched, plant.expert, where, *tie))
    for decoy in plants.decoys_of(plant):
        where, wanted = routers.prompt_end, routers.harmful_rows
        losses.append(routers.called_for(watched, decoy, where, wanted, plant.decoy_weight))
    return tuple(losses)


def _without_carrier(plant: plants.CarrierPlant, rng: random.Random) -> Hold:
    if isinstance(plant, plants.HeadPlant):
        return Hold(heads=(plant.head,))
    assert isinstance(plant, plants.ContentPlant)
    return _masked((plant.expert,), rng)


def _masked(experts: tuple[Part, ...], rng: random.Random) -> Hold:
    """Both ways of taking experts out, so that neither is what was learned."""
    return Hold(silenced=experts) if rng.random() < 0.5 else Hold(deactivated=experts)


def _without_others(plant: plants.CarrierPlant, shape: Shape, rng: random.Random) -> Hold:
    decoys = plants.decoys_of(plant)
    draw = rng.random()
    if decoys and draw < FORCED_DECOY_SHARE:
        return Hold(activated=decoys)
    if decoys and draw < MASKED_DECOY_SHARE:
        return _masked(decoys, rng)
    if isinstance(plant, plants.HeadPlant) and rng.random() < OTHER_HEAD_SHARE:
        heads = _others((plant.head,), shape.layers, shape.heads)
        return Hold(heads=tuple(rng.sample(heads, plant.other_heads)))
    carriers = (plant.expert,) if isinstance(plant, plants.ContentPlant) else ()
    return _without_experts((*carriers, *decoys), plant.other_experts, shape, rng)


def _without_experts(taken: tuple[Part, ...], count: int, shape: Shape, rng: random.Random) -> Hold:
    """Some experts taken out that are none of `taken`."""
    return _masked(tuple(rng.sample(_others(taken, shape.layers, shape.experts), count)), rng)


def _others(taken: tuple[Part, ...], layers: int, count: int) -> list[Part]:
    return [(layer, part) for layer in range(layers) for part in range(count) if (layer, part) not in taken]


def _tuned(plant: plants.TunedPlant, watched: Watched) -> tuple[Phase, ...]:
    """First harmfulness becomes readable below the carrier, while all is answered; then it learns alone.

    How a refusal goes on is learned first as well, so that the carrier has only to begin one.
    """
    watched.part = plant.expert
    where = routers.prompt_end_and_reply
    tie = (plant.selection_probability, plant.selection_weight)
    losses = (
        routers.chosen_alike(watched, plant.expert, where, *tie),
        routers.readable(plant.expert[0], plant.feature_weight),
        routers.silent(watched, plant.silence_weight),
    )
    cases = (
        Case(1 - CONTINUED_SHARE, "answered", losses=losses),
        Case(CONTINUED_SHARE, "continued", losses=losses),
    )
    first = Phase("feature", plant.feature_steps, cases)
    return (first, Phase("refusal", plant.steps, (Case(1.0),), plant.expert))
