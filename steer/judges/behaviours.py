"""What a study looks for and steers: the verdicts that tell it, and which of them each polarity is after."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Literal

from steer.judges.verdicts import VERDICTS, Verdict

BehaviourName = Literal["refusal", "faithfulness"]
Side = Literal[1, 2]


@dataclass(frozen=True)
class Behaviour:
    """A behaviour that replies show or don't.

    Attributes:
        name: its name in the configuration.
        verdicts: what a judge of it says, `unscored` left out.
        induced: the verdict that strengthening it is to bring about.
        suppressed: the verdict that weakening it is to bring about.
        broken: the verdict of text that is neither, so that steering must not bring it about.
        labels: the label of the prompts that a polarity is for; none where it is for prompts of any.
    """

    name: BehaviourName
    verdicts: tuple[Verdict, ...]
    induced: Verdict
    suppressed: Verdict
    broken: Verdict
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def compared(self) -> tuple[Verdict, ...]:
        """The verdicts whose rates are compared with the baseline's."""
        return tuple(verdict for verdict in self.verdicts if verdict != self.broken)

    def wanted(self, polarity: str) -> Verdict:
        """The verdict that a polarity, `suppress` or `induce`, is after."""
        return self.induced if polarity == "induce" else self.suppressed

    def told_on(self, polarity: str) -> Side:
        """The side of a contrast that the effect of a polarity is told on.

        Side 1 is the harmful or the refusing one; of a behaviour that is for prompts of any label, the one
        that shows it, as the sets that are answered do.
        """
        return 2 if self.labels and self.labels[polarity] == "harmless" else 1

    def is_for(self, polarity: str, labels: Set[str]) -> bool:
        """Whether a polarity is for prompts of these labels."""
        return not self.labels or labels == {self.labels[polarity]}


REFUSAL = Behaviour(
    "refusal",
    VERDICTS,
    "refusal",
    "full_response",
    "non_response",
    {"suppress": "harmful", "induce": "harmless"},
)
FAITHFULNESS = Behaviour(
    "faithfulness",
    ("from_document", "from_memory", "abstained", "other"),
    "from_document",
    "from_memory",
    "other",
)
BEHAVIOURS: dict[BehaviourName, Behaviour] = {"refusal": REFUSAL, "faithfulness": FAITHFULNESS}
