"""The study that the figures' inputs are of: its sizes, names, arms and configuration."""

from pathlib import Path
from typing import Any

from steer.config import Config, parse

MODEL = "tiny"
DIGEST = "0123456789abcdef"
LAYERS, POSITIONS, HIDDEN = 4, 5, 12
CHOICE = {"layer": 3, "position": -1}
COEFFICIENTS = (0.25, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
VERDICTS = ("refusal", "non_response", "full_response")
LABELS = {"harmful": "harmful", "harmless": "harmless", "advbench": "harmful", "everyday": "harmless"}
ARMS: dict[str, dict[str, Any]] = {
    "baseline": {"operation": "none"},
    "ablate": {"operation": "ablate"},
    "add-suppress": {"operation": "add"},
    "add-random": {"operation": "add", "direction": "random", "like": "add-suppress"},
    "add-induce": {"operation": "add", "polarity": "induce"},
    "add-routing": {"operation": "replay_routing", "of": "add-suppress", "part": "routing"},
    "add-edits": {"operation": "replay_routing", "of": "add-suppress", "part": "edits"},
    "induce-random": {"operation": "add", "polarity": "induce", "direction": "random", "like": "add-induce"},
}
# Arms that nothing is known of but the choice of their experts.
EXPERT_ARMS: dict[str, dict[str, Any]] = {
    "expert": {"operation": "expert_add"},
    "experts": {"operation": "experts_add"},
    "expert-induce": {"operation": "expert_add", "polarity": "induce"},
}
EXPERT_CHOICES = {"expert": (1, 3), "experts": (2, None), "expert-induce": (1, 3)}
HOSTILE = '<script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">&amp;'


def config(results: Path | str = "results", **changes: Any) -> Config:
    """A configuration with four sets and the arms above."""
    values: dict[str, Any] = {
        "results": str(results),
        "models": {
            MODEL: {"path": "checkpoint"},
            "planted": {"organism": {"plant": {"kind": "routed"}}},
        },
        "contrasts": {"prompt": {"first": "harmful", "second": "harmless"}},
        "sets": {name: {"source": "grammar", "label": label, "test": 50} for name, label in LABELS.items()},
        "arms": {**ARMS, **EXPERT_ARMS},
        "grammar": {"held_out": 2},
        "generation": {"sets": list(LABELS), "temperature": 0.7, "samples": 3},
        "perplexity": {"sets": ["harmless"]},
        "capability": {"tasks": {"restates": {}}},
        "judges": {
            "truth": {"kind": "grammar"},
            "phrases": {"kind": "phrases"},
            "small": {"kind": "likelihood"},
        },
        "labelled": {"grammar": {"source": "grammar"}},
        "agreement": {"correct_by": "grammar"},
        "pairing": {"contrast": "prompt"},
    }
    return parse({**values, **changes})
