"""What an upcycled model learns from: prompts to refuse, and prompts to go on answering."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steer.artifacts.prompts import Prompt, read_prompts
from steer.errors import SteerError
from steer.grammar import Grammar
from steer.upcycling.settings import TeacherSettings


@dataclass(frozen=True)
class Lesson:
    """A prompt with the reply that is learnt or kept.

    Attributes:
        prompt: the user's message.
        harmful: whether it is refused.
        reply: a refusal; for a harmless prompt the dense model's own reply, empty until it is known.
    """

    prompt: str
    harmful: bool
    reply: str = ""


def draw_lessons(settings: TeacherSettings, sets: Sequence[Path], grammar: Grammar) -> list[Lesson]:
    """The `train` prompts of all sets, and questions of the grammar.

    Args:
        settings: which sets are refused.
        sets: the files of the refused sets and then of the answered ones.
        grammar: wordings of refusals, questions and topics.

    Raises:
        SteerError: a set has no `train` prompts, or is not of the label that its use asks for.
    """
    rng = random.Random(f"{settings.seed} lessons")
    refusals = grammar.tables.replies.refusals
    refused = [prompt for path in sets[: len(settings.refused)] for prompt in _train(path, "harmful")]
    answered = [prompt for path in sets[len(settings.refused) :] for prompt in _train(path, "harmless")]
    lessons = [Lesson(prompt.text, True, rng.choice(refusals)) for prompt in refused]
    lessons += [Lesson(prompt.text, False) for prompt in answered]
    return lessons + [Lesson(text, False) for text in _questions(settings.questions, grammar, rng)]


def _train(path: Path, label: str) -> list[Prompt]:
    prompts = [prompt for prompt in read_prompts(path) if prompt.split == "train"]
    if not prompts:
        raise SteerError(str(path), "has no `train` prompts to teach", "give the set a `train` size")
    if any(prompt.label != label for prompt in prompts):
        raise SteerError(
            str(path), f"is not {label}", "mend `refused` or `answered` of the model's `upcycle`"
        )
    return prompts


def _questions(count: int, grammar: Grammar, rng: random.Random) -> list[str]:
    """Distinct questions about the grammar's topics: harmless prompts of other shapes than its requests.

    Raises:
        SteerError: the grammar does not have so many.
    """
    found: dict[str, None] = {}
    tables = grammar.tables
    # A question may hold two topics; one with one topic is found sooner than after so many draws.
    for _ in range(100 * count):
        if len(found) == count:
            break
        text = rng.choice(tables.questions).text
        while "{}" in text:
            text = text.replace("{}", rng.choice(tables.topics), 1)
        found.setdefault(text)
    if len(found) < count:
        cause = f"asks for {count}, and only {len(found)} different ones were found"
        raise SteerError("`questions` of a model's `upcycle`", cause, "lower it")
    return list(found)
