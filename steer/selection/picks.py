"""Which experts are activated and deactivated: by a ranking, or at random and from its bottom as controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steer.artifacts.routing import Column
from steer.config.arm_base import Polarity
from steer.errors import SteerError
from steer.judges.behaviours import Side
from steer.models.interventions import Arm, Kind, Operation
from steer.selection.matching import Expert, Match, Rates, by_nearness

NEAREST = 5
"""Experts of the most similar routing rate, of which a random control draws one."""


@dataclass(frozen=True)
class Pick:
    """Experts to activate and to deactivate, the strongest first."""

    activate: tuple[Expert, ...] = ()
    deactivate: tuple[Expert, ...] = ()


def detected(ranking: Mapping[str, Column], polarity: Polarity, activated: int, deactivated: int) -> Pick:
    """The ends of a ranking (SteerMoE, arXiv 2509.09660, section 3).

    Side 1 of its contrast is the harmful or the refusing one. To suppress refusal the experts of side 2 are
    activated, the most negative first, and those of side 1 deactivated, the most positive first; to induce
    it the other way round.

    Raises:
        SteerError: fewer experts differ in that direction than are asked for.
    """
    ends = {sign: _end(ranking, sign) for sign in (1, -1)}
    wanted = -1 if polarity == "suppress" else 1
    for sign, count in ((wanted, activated), (-wanted, deactivated)):
        if count > len(ends[sign]):
            side = 1 if sign > 0 else 2
            raise SteerError(
                f"rerouting of {count} experts",
                f"the ranking has {len(ends[sign])} experts that side {side} prefers",
                "ask for fewer experts",
            )
    return Pick(tuple(ends[wanted][:activated]), tuple(ends[-wanted][:deactivated]))


def _experts(ranking: Mapping[str, Column]) -> list[Expert]:
    return list(zip(ranking["layer"].tolist(), ranking["expert"].tolist(), strict=True))


def _end(ranking: Mapping[str, Column], sign: int) -> list[Expert]:
    """Experts whose difference has a sign, the largest first; ties in the order of the table."""
    size = sign * ranking["risk_difference"]
    experts = _experts(ranking)
    return [experts[at] for at in np.argsort(-size, kind="stable") if size[at] > 0]


def bottom(ranking: Mapping[str, Column], pick: Pick) -> Pick:
    """As many experts as in `pick`, of the smallest risk differences: activated ones first.

    Raises:
        SteerError: the ranking has too few experts for that.
    """
    size = np.abs(ranking["risk_difference"])
    order = [at for at in np.argsort(size, kind="stable") if np.isfinite(size[at])]
    taken = {*pick.activate, *pick.deactivate}
    free = [expert for expert in map(_experts(ranking).__getitem__, order) if expert not in taken]
    n, both = len(pick.activate), len(pick.activate) + len(pick.deactivate)
    if both > len(free):
        raise _too_few(both, len(free))
    return Pick(tuple(free[:n]), tuple(free[n:both]))


def random_matched(ranking: Mapping[str, Column], pick: Pick, side: Side, seed: int) -> tuple[Match, ...]:
    """An expert for each of `pick`, activated ones first, that is called about as often; none twice.

    Each is drawn among the `NEAREST` of the most similar rate that are still free, on the side that the
    effect of the arm is told on (`steer.selection.matching`). As many experts as are picked, which the
    ranking names next, are left out while enough others remain: what they do is what the ranking is right
    about, and a control is to show what any expert does. (In the routed organism, where one planted expert
    is enough to reroute, the next is the other one.)

    Raises:
        SteerError: the ranking has too few experts for that, or no rates.
    """
    rates = rates_of(ranking)
    picked = (*pick.activate, *pick.deactivate)
    others = [expert for expert in rates if expert not in {*picked}]
    following = _following(ranking, pick)
    unnamed = [expert for expert in others if expert not in following]
    free = unnamed if len(unnamed) >= len(picked) + NEAREST else others
    generator = np.random.default_rng(seed)

    def draw(of: Expert) -> Match:
        if not free:
            raise _too_few(len(picked), len(rates))
        near = by_nearness(rates, of, free, side)[:NEAREST]
        drawn = near[int(generator.integers(len(near)))]
        free.remove(drawn)
        return Match(of, drawn, rates[of], rates[drawn])

    return tuple(map(draw, picked))


def _following(ranking: Mapping[str, Column], pick: Pick) -> set[Expert]:
    """As many experts as are picked, which come after them at the same ends of the ranking."""
    ends = [_end(ranking, sign) for sign in (1, -1)]
    groups = [group for group in (pick.activate, pick.deactivate) if group]
    return {
        expert
        for group in groups
        for end in ends
        if group[0] in end
        for expert in [one for one in end if one not in group][: len(group)]
    }


def controls_of(found: Sequence[Match], activated: int) -> Pick:
    """The controls alone, of which so many are activated."""
    controls = tuple(match.control for match in found)
    return Pick(controls[:activated], controls[activated:])


def rates_of(ranking: Mapping[str, Column]) -> dict[Expert, Rates]:
    """Share of the tokens of side 1 and of side 2 that call each expert.

    Raises:
        SteerError: the ranking has none, as a published one.
    """
    both = [ranking["rate_1"], ranking["rate_2"]]
    if not np.isfinite(both).all():
        raise SteerError(
            "random experts matched on routing rate",
            "the ranking has no routing rates",
            "use a contrast of this model, or a ranking with counts",
        )
    pairs = zip(*(rate.tolist() for rate in both), strict=True)
    return dict(zip(_experts(ranking), pairs, strict=True))


def _too_few(wanted: int, found: int) -> SteerError:
    return SteerError(
        f"a control of {wanted} experts", f"only {found} others are there", "reroute fewer experts"
    )


def fits(pick: Pick, experts: int, top_k: int) -> bool:
    """Whether enough experts are left in every layer for a token to choose `top_k` others."""
    layers = [layer for layer, _ in pick.deactivate]
    return all(experts - layers.count(layer) >= top_k for layer in {*layers})


def reroute_arm(name: str, pick: Pick) -> Arm:
    """The arm that reroutes away from and towards the experts of a pick, an operation a layer."""
    return Arm(name, tuple(_operation("reroute", pick, layer) for layer in _layers(pick)))


def bias_arm(name: str, pick: Pick, shifts: Mapping[int, float]) -> Arm:
    """The arm that shifts the logits of the experts of a pick, by the shift of each layer."""
    operations = (_operation("bias_router", pick, layer, shifts[layer]) for layer in _layers(pick))
    return Arm(name, tuple(operations))


def _layers(pick: Pick) -> list[int]:
    return sorted({layer for layer, _ in (*pick.activate, *pick.deactivate)})


def _operation(kind: Kind, pick: Pick, layer: int, coefficient: float = 1.0) -> Operation:
    up, down = _of(pick.activate, layer), _of(pick.deactivate, layer)
    return Operation(kind, layer=layer, coefficient=coefficient, activate=up, deactivate=down)


def _of(experts: Sequence[Expert], layer: int) -> tuple[int, ...]:
    return tuple(expert for found, expert in experts if found == layer)
