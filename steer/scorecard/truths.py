"""What is known of a model: where refusal was put, and which detectors its training was related to."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from steer.artifacts.facts import read_facts
from steer.scorecard.ranks import Expert

NATURAL = "natural"
# What the training of a kind of plant supervised, and detectors that measure it.
ROUTER_ON_PROMPTS = ("routed", "decoy_content", "decoy_head", "upcycled")
ROUTER_ON_REPLIES = ("reply_routed", "upcycled")
MASKING = frozenset({"mask_effect", "gate_gradient", "reply_effect", "reply_gradient"})
PROBED = {"mask_experts": MASKING, "reroute": MASKING}


@dataclass(frozen=True)
class Truth:
    """Where refusal was put.

    Attributes:
        plant: kind of plant; `natural` where nothing was planted.
        carriers: experts that carry refusal; none where it is in attention, or nowhere in particular.
        decoys: experts that react to harmful prompts and carry nothing.
        related: detectors that measure what the training of this plant was about, so that their
            success is put in by construction.
    """

    plant: str
    carriers: frozenset[Expert]
    decoys: frozenset[Expert]
    related: frozenset[str]


def related(
    kind: str, probes: Sequence[str], detectors: Iterable[str], contrasts: tuple[str, str]
) -> frozenset[str]:
    """Detectors that measure what a plant was trained under; `contrasts` are of prompts and of replies."""
    found = {name for probe in probes for name in PROBED.get(probe, ())}
    for contrast, kinds in zip(contrasts, (ROUTER_ON_PROMPTS, ROUTER_ON_REPLIES), strict=True):
        if kind in kinds:
            found |= {name for name in detectors if name.startswith(f"{contrast}_")}
    return frozenset(found)


def truth_of(path: Path, detectors: Iterable[str], contrasts: tuple[str, str]) -> Truth:
    """The truth that `model.json` tells; without one, the model is natural."""
    told = read_facts(path).truth
    if told is None:
        return Truth(NATURAL, frozenset(), frozenset(), frozenset())
    carriers = frozenset(told.carriers) if told.carrier == "experts" else frozenset()
    put_in = related(told.kind, told.probes, detectors, contrasts)
    return Truth(told.kind, carriers, frozenset(told.decoys), put_in)
