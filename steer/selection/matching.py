"""Controls of experts: others that are called as often where the effect of an arm is told.

An effect is told on one class: that of suppressing refusal on harmful prompts, that of inducing it on
harmless ones; of a behaviour that is for prompts of any label, on side 1 (`Behaviour.told_on`). How
often an arm acts there is how often its experts are called there, so that controls have to be called there
as often; calls by both classes together would let an expert of harmful prompts have a control that no
harmful prompt calls, which could not do anything. The other class is left free on purpose: experts that are
called as often by both classes have the same difference of rates too, which is what detectors go by and
what the arm is to be told apart from (overmatching: Day, Byar & Green, Am. J. Epidemiol. 112, 1980). In the
routed organism, for one, the nearest by both rates of a planted expert is the other planted one.

How often an expert is called is known of the tokens that were counted: the last prompt tokens, or replies.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steer.artifacts.files import Row
from steer.config.arm_base import POOL
from steer.errors import SteerError
from steer.judges.behaviours import Side

Expert = tuple[int, int]
"""Layer and expert."""
Rates = tuple[float, float]
"""Share of the tokens of harmful and of harmless prompts (or of side 1 and 2 of a contrast) that call it."""

LARGE = 0.1
"""A gap between the rates of an expert and of its control that is warned of."""


COLUMNS = (
    *("arm", "layer", "expert", "control_layer", "control"),
    *("rate_harmful", "rate_harmless", "control_rate_harmful", "control_rate_harmless", "told_on", "gap"),
)
"""Of the table of controls; for controls of a routing contrast, harmful is its side 1 and harmless side 2."""

CLASSES = ("harmful", "harmless")
SIDES = ("side 1", "side 2")
"""What the sides of a contrast are called: where they are the two classes, and where they are not."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Match:
    """An expert and its control, each with its rates on both classes."""

    expert: Expert
    control: Expert
    rates: Rates
    control_rates: Rates

    def gap(self, side: Side) -> float:
        """How far the two rates are apart where the effect is told."""
        return abs(told(self.rates, side) - told(self.control_rates, side))

    def row(self, side: Side, called: Sequence[str] = CLASSES) -> Row:
        """The match as data: a row of the table of controls, with what the two sides are called."""
        return {
            "layer": self.expert[0],
            "expert": self.expert[1],
            "control_layer": self.control[0],
            "control": self.control[1],
            "rate_harmful": self.rates[0],
            "rate_harmless": self.rates[1],
            "control_rate_harmful": self.control_rates[0],
            "control_rate_harmless": self.control_rates[1],
            "told_on": called[side - 1],
            "gap": self.gap(side),
        }


def tell(name: str, found: Sequence[Match], side: Side, called: Sequence[str] = CLASSES) -> None:
    """Log how near the controls of an arm are; large gaps are warned of."""
    for match in found:
        gap = match.gap(side)
        far = gap > LARGE
        say = log.warning if far else log.info
        where = f"called {gap:.2f} apart on {called[side - 1]} prompts"
        where += ": too far to be a control of how often it is called" if far else ""
        say("%s: expert %s stands for %s, %s", name, match.control, match.expert, where)


def told(rates: Rates, side: Side) -> float:
    """The rate on the side that the effect of an arm is told on."""
    return rates[side - 1]


def by_nearness(
    rates: Mapping[Expert, Rates], of: Expert, others: Sequence[Expert], side: Side
) -> list[Expert]:
    """Other experts, those first whose rate is nearest; ties by layer and expert."""
    own = told(rates[of], side)
    return sorted(others, key=lambda other: (abs(told(rates[other], side) - own), other))


def matched_experts(
    rates: Mapping[Expert, Rates], experts: Sequence[Expert], side: Side, seed: int
) -> tuple[Match, ...]:
    """A control for each of some experts: another one of its layer, called about as often.

    The first seed takes the nearest, each further one the next of the `POOL` nearest, so that seeds that
    follow each other differ; none is given, and none taken twice. Where no rate is near, the nearest is
    taken, and its gap tells.

    Args:
        rates: of every expert.
        experts: those to match.
        side: that the effect of the arm is told on.
        seed: which of the nearest is taken.

    Raises:
        SteerError: a layer has too few experts.
    """
    found: list[Match] = []
    for expert in experts:
        taken = {*experts, *(match.control for match in found)}
        others = [other for other in rates if other[0] == expert[0] and other not in taken]
        if not others:
            raise SteerError(f"layer {expert[0]}", "has no other experts left to match", "name fewer experts")
        pool = by_nearness(rates, expert, others, side)[:POOL]
        control = pool[seed % len(pool)]
        found.append(Match(expert, control, rates[expert], rates[control]))
    return tuple(found)
