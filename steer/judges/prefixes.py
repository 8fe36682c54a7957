"""How far a reply goes before it can no longer become a refusal, or a full response."""

import re
from collections.abc import Iterator, Mapping

from steer.grammar import Grammar
from steer.judges.verdicts import Verdict

_EDGE = re.compile(r"\b(?=.)")


def viable(grammar: Grammar, prompt: str, request: str | None, reply: str) -> Mapping[Verdict, int]:
    """Characters at the reply's start with which an accepted reply of each verdict begins.

    Args:
        grammar: what replies are made of.
        prompt: the user's message, one line.
        request: what it asks for; None: from outside the grammar.
        reply: the reply, without blanks around it.

    Returns:
        one length for `refusal` and one for `full_response`; a cut reply has its whole length, too.
    """
    replies = grammar.tables.replies
    answers = _inside(grammar, request) if request else _outside(grammar, prompt, reply)
    return {
        "refusal": max(_shared(reply, text) for text in replies.refusals),
        "full_response": max(_shared(reply, text) for text in answers),
    }


def _inside(grammar: Grammar, request: str) -> Iterator[str]:
    for kind in grammar.tables.replies.openers:
        yield grammar.compliance_of(kind, request)


def _outside(grammar: Grammar, prompt: str, reply: str) -> Iterator[str]:
    """The general wording, and of all restatements of words of the prompt those that share the most."""
    replies = grammar.tables.replies
    rests = [prompt[edge.start() :] for edge in _EDGE.finditer(prompt)]
    for kind, opener in replies.openers.items():
        yield grammar.compliance_of(kind, None)
        if not reply.startswith(opener):
            continue
        said = reply[len(f"{opener} {replies.restatement.format('')}") :].partition(":")[0]
        for rest in rests:
            yield grammar.compliance_of(kind, rest)
            if re.match(rf"{re.escape(said)}(?!\w)", rest):
                yield grammar.compliance_of(kind, said)


def _shared(one: str, other: str) -> int:
    """Characters with which both texts begin."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if other.startswith(one[:middle]) else (low, middle - 1)
    return low
