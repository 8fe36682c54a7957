"""What the plan's formulas are made of: a study with one of its models, assumed lengths, and work.

A pass is one forward pass over a batch of prompts, without the steps of decoding that follow it. Tokens read
are those of all passes; where gradients are taken, they count three times (a backward pass costs two
forward ones: Kaplan et al., arXiv 2001.08361, section 2.1). Tokens written are an upper bound: every reply
is taken to be as long as it may be.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from steer.artifacts.facts import Truth
from steer.config import Config, ModelSettings
from steer.plan.anatomy import Anatomy

BACKWARD = 3
"""Tokens that a token counts as, whose gradient is taken."""


@dataclass(frozen=True)
class Lengths:
    """Tokens, as assumed.

    Attributes:
        prompt: of a prompt, chat template and system turn included.
        target: of the reply or part that a paired set counts.
        document: of what stands before a question, where a set is `with` its document.
    """

    prompt: int = 64
    target: int = 96
    document: int = 160


@dataclass(frozen=True)
class Work:
    """What a rule makes of one model.

    Attributes:
        rule: its name.
        jobs: how often it runs, each time loading the model.
        passes: forward passes over batches.
        read: prompt tokens of all passes.
        written: reply tokens, at most.
        replies: how many replies are written.
    """

    rule: str
    jobs: int
    passes: int
    read: int
    written: int = 0
    replies: int = 0


@dataclass(frozen=True)
class Study:
    """What the rules' formulas are made of: a configuration, one of its models, and the lengths."""

    config: Config
    model: ModelSettings
    anatomy: Anatomy
    lengths: Lengths

    @property
    def captured(self) -> list[str]:
        """Sets whose activations are recorded: of the contrasts, and for refusal those that arms answer."""
        sides = [name for contrast in self.config.contrasts.values() for name in contrast.sets]
        if self.config.behaviour != "refusal":
            return list(dict.fromkeys([*sides, *self.config.donors]))
        answered = self.config.generation.sets
        return list(dict.fromkeys([*self.config.estimating, *answered, *self.config.donors]))

    @property
    def truth(self) -> Truth | None:
        """Where refusal was planted; None for a model that has no causal check."""
        return self.model.organism.truth if self.model.organism else None

    def prompts(self, name: str, *splits: str) -> int:
        """Prompts of a set, of some splits or of all."""
        return sum(getattr(self.config.sets[name], split) for split in splits or ("train", "val", "test"))

    def val(self, limit: int | None = None) -> tuple[int, int]:
        """`val` prompts that are chosen by: harmful and harmless, at most `limit` each."""
        both = [
            self.prompts(getattr(self.config.contrast, label), "val") for label in ("harmful", "harmless")
        ]
        harmful, harmless = [number if limit is None else min(number, limit) for number in both]
        return harmful, harmless

    def asked(self, arm: Any, limit: int) -> int:
        """`val` prompts that a trial of an arm answers: harmful ones to suppress refusal on, or harmless."""
        return self.val(limit)[0 if arm.polarity == "suppress" else 1]

    def batches(self, rows: int) -> int:
        """⌈rows / batch size⌉."""
        return math.ceil(rows / self.model.batch_size)

    def answers(self, rule: str, groups: Sequence[int], limit: int) -> Work:
        """Work of groups of replies, each in batches of its own.

        Each prompt is read twice, unsteered and steered, and `limit` tokens are written.
        """
        rows, passes = sum(groups), 2 * sum(map(self.batches, groups))
        return Work(rule, 1, passes, 2 * rows * self.lengths.prompt, rows * limit, rows)
