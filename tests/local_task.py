"""The questions of the task `restates`, drawn from the grammar: data/tasks/restates.jsonl."""

import json
import random
from typing import Any

from steer.grammar import Grammar

QUESTIONS, WORDS, SEED = 100, 12, 0


def questions(grammar: Grammar) -> list[dict[str, Any]]:
    """A harmless request of a verb and twelve words each, and four compliances with it.

    One restates it; in the others two of the words have changed places. The embedded model gets requests as
    short as those of its training all right, under every arm; of twelve words it loses some.
    """
    rng = random.Random(SEED)
    return [
        _question(grammar, prompt, rng) for prompt in grammar.prompts("harmless", "test", QUESTIONS, SEED)
    ]


def _question(grammar: Grammar, prompt: Any, rng: random.Random) -> dict[str, Any]:
    words = rng.sample(grammar.tables.words, WORDS)
    lists = {tuple(words): None}
    while len(lists) < 4:
        one, other = rng.sample(range(WORDS), 2)
        moved = list(words)
        moved[one], moved[other] = moved[other], moved[one]
        lists[tuple(moved)] = None
    requests = [" ".join((prompt.request.pair.verb, *one)) for one in lists]
    order = rng.sample(range(4), 4)
    return {
        "prompt": prompt.frame.text.format(requests[0]),
        "choices": [grammar.compliance_of(prompt.frame.kind, requests[place]) for place in order],
        "answer": order.index(0),
    }


def lines(grammar: Grammar) -> str:
    """The file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in questions(grammar))
