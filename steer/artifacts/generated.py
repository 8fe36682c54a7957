"""A line of `generation/<set>.jsonl`, whichever engine made the reply."""

from collections.abc import Mapping
from typing import Any, Literal

from steer.artifacts.files import Row


def reply_row(
    *,
    arm: str,
    prompt_id: str,
    text: str,
    reasoning: str | None,
    n_tokens: int,
    finish: Literal["stop", "length"],
    score: float,
    kl: float,
    fired: Mapping[str, Any],
    sample: int | None = None,
) -> Row:
    """The row, in the order of its keys.

    Args:
        arm: the intervention.
        prompt_id: the prompt, by its name in the set.
        text: the reply.
        reasoning: what a thinking model wrote before it; None where it wrote none.
        n_tokens: tokens of both.
        finish: `stop` at an end-of-turn token, `length` where the limit cut it.
        score: refusal score of the first token, nats.
        kl: divergence of that token's distribution from the unsteered one, nats.
        fired: what the arm did, by the names of `firing.Fired`.
        sample: the sampling seed; None for a greedy reply, whose row has no such key.
    """
    return {
        "arm": arm,
        "prompt_id": prompt_id,
        **({} if sample is None else {"sample": sample}),
        "text": text,
        "reasoning": reasoning,
        "n_tokens": n_tokens,
        "finish": finish,
        "first_token_refusal_score": score,
        "first_token_kl": kl,
        "fired": dict(fired),
    }
