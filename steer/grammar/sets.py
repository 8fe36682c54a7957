"""Drawing the prompt sets: the same verbs, frames, contexts and lengths for both labels."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

from steer.errors import SteerError
from steer.grammar.requests import Prompt, Request
from steer.grammar.tables import Frame, Label, Pair

CONTEXT_SHARE = 0.5
PATIENCE = 20


def draw_prompts(
    pairs: Sequence[Pair],
    frames: Sequence[Frame],
    contexts: Sequence[str],
    label: Label,
    size: int,
    seed: int,
) -> list[Prompt]:
    """Draw `size` distinct prompts; under one seed both labels get the same pairs, frames and contexts.

    Every pair is used once before any is used again, and every frame likewise.

    Raises:
        SteerError: the tables hold too few different prompts.
    """
    found: dict[str, Prompt] = {}
    draws = _draws(pairs, frames, contexts, random.Random(seed))
    possible = possible_prompts(pairs, frames, contexts)
    for _ in range(PATIENCE * size if size <= possible else 0):
        if len(found) == size:
            break
        pair, frame, context = next(draws)
        prompt = Prompt(frame, Request(pair, label, context))
        found.setdefault(prompt.text, prompt)
    if len(found) < size:
        cause = f"{size} different prompts were asked for, and a split of the grammar has at most {possible}"
        raise SteerError(f"{label} prompts", cause, "ask for fewer, or add phrases or frames to the grammar")
    return list(found.values())


def possible_prompts(pairs: Sequence[Pair], frames: Sequence[Frame], contexts: Sequence[str]) -> int:
    """How many different prompts of one label there are."""
    return len(pairs) * len(frames) * (len(contexts) + 1)


def held_out_categories(pairs: Sequence[Pair], count: int, seed: int) -> frozenset[str]:
    """`count` of the categories of harm, drawn by the seed; fewer are among those that more would be.

    Raises:
        SteerError: no category would be left.
    """
    categories = sorted({pair.category for pair in pairs})
    if count >= len(categories):
        cause = f"{count} categories are to be held out, and there are {len(categories)}"
        raise SteerError("`grammar.held_out`", cause, "lower it")
    random.Random(f"{seed} held out").shuffle(categories)
    return frozenset(categories[:count])


def _draws(
    pairs: Sequence[Pair], frames: Sequence[Frame], contexts: Sequence[str], rng: random.Random
) -> Iterator[tuple[Pair, Frame, str]]:
    pair_order = list(pairs)
    rng.shuffle(pair_order)
    frame_order = list(frames)
    rng.shuffle(frame_order)
    frame_cycle = cycle(frame_order)
    for pair in cycle(pair_order):
        context = rng.choice(contexts) if rng.random() < CONTEXT_SHARE else ""
        yield pair, next(frame_cycle), context


def prompt_id(text: str) -> str:
    """A name for a prompt that depends on its text alone."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def content_of(text: str, target: str | None, before: Sequence[str] | None) -> str:
    """What the name of a prompt is made of: the turns before it, its text, and its target if it has one."""
    return "\n".join([*(before or []), text, *filter(None, [target])])


def paired_row(prompt: Prompt, reply: str) -> dict[str, Any]:
    """The row of a paired set: a prompt with a reply; `pair` is the id of the prompt alone."""
    row = prompt_row(prompt)
    return {**row, "id": prompt_id(f"{prompt.text}\n{reply}"), "pair": row["id"], "target": reply}


def prompt_row(prompt: Prompt) -> dict[str, Any]:
    """The row of a prompt file (contract version 1)."""
    request = prompt.request
    harmful = request.label == "harmful"
    return {
        "id": prompt_id(prompt.text),
        "text": prompt.text,
        "label": request.label,
        "category": request.pair.category if harmful else f"matched_{request.pair.category}",
        "source": "grammar",
        "split": request.pair.split,
    }
