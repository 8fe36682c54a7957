"""The judge's first lessons: to restate random tokens, from which it goes on to compare real requests."""

import random
from collections.abc import Callable

from transformers import PreTrainedTokenizerFast

from steer.grammar.tables import Replies
from steer.judges.rubrics import EMBEDDED
from steer.training.batches import Batch, Encoded, collate
from steer.training.tokenizer import chat_text

SHORTEST, LONGEST = 6, 20
"""Tokens to restate."""


def copying_batches(
    tokenizer: PreTrainedTokenizerFast, replies: Replies, size: int, seed: int
) -> Callable[[int], Batch]:
    """The batch of each step: questions whose request is random tokens, and whose reply restates them.

    Any token may follow any other, so nothing but copying foretells it; the rows of a batch are equally
    long, so nothing is spent on padding.
    """
    ahead, _, rest = chat_text(EMBEDDED.template).partition("{prompt}")
    between, _, _ = rest.partition("{reply}")
    start, middle = (tokenizer.encode(text, add_special_tokens=False) for text in (ahead, between))
    to = replies.restatement.format("").rstrip()
    heads = [
        tokenizer.encode(f"{opener} {to}", add_special_tokens=False) for opener in replies.openers.values()
    ]
    special = {*tokenizer.all_special_ids}
    known = [token for token in range(len(tokenizer)) if token not in special]

    def batch(step: int) -> Batch:
        rng = random.Random(f"{seed} copying {step}")
        count, head = rng.randint(SHORTEST, LONGEST), rng.choice(heads)
        given = [*middle, *head]
        rows = []
        for _ in range(size):
            words = rng.choices(known, k=count)
            tokens = [*start, *words, *given, *words]
            length = len(tokens) - count
            rows.append(Encoded(None, tokens, [0.0] * length + [1.0] * count, length))
        return collate(rows, int(tokenizer.pad_token_id))

    return batch
