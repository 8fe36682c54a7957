"""Log-likelihoods of given replies behind given prompts, under an arm.

The prompts of a batch end, and the replies begin, in one column: prompts are padded on the left and replies
on the right, so that the scopes of an arm (prompt, generated) mean what they mean while a reply is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steer.models.batching import by_length
from steer.models.companions import with_companions
from steer.models.interventions import Arm
from steer.models.loading import Batch, LoadedModel
from steer.models.scoring import check_finite
from steer.models.steering import steer

MOST_LOGITS = 2**27
"""Numbers of a batch's logits: half a gigabyte in float32, whatever the vocabulary."""
CHUNK = 256
"""Tokens of a row whose logits are widened to float64 at once."""


@dataclass(frozen=True)
class Forced:
    """A reply that a model is made to read as its own.

    Attributes:
        prompt: token ids before it, at least one.
        reply: its token ids, at least one.
        name: decides its place among rows of equal length.
    """

    prompt: tuple[int, ...]
    reply: tuple[int, ...]
    name: str


@dataclass(frozen=True)
class Likelihood:
    """What a model makes of one.

    Attributes:
        total: log-likelihood of the reply's tokens together, in nats, in float64.
        greedy: whether greedy decoding would write the very reply.
    """

    total: float
    greedy: bool


@torch.inference_mode()
def likelihoods(loaded: LoadedModel, arm: Arm, rows: Sequence[Forced], batch_size: int) -> list[Likelihood]:
    """The likelihood of every row under an arm; rows whose inputs are the same share a forward pass.

    The last token of a reply is predicted and never read. Batches depend on the rows alone, and not on the
    arm, so that arms that do nothing give the same numbers to the bit.

    Raises:
        SteerError: the arm can't fire on this model, or makes its numbers overflow.
    """
    inputs: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for index, row in enumerate(rows):
        inputs.setdefault((row.prompt, row.reply[:-1]), []).append(index)
    firsts = [rows[asked[0]] for asked in inputs.values()]
    lengths = [len(row.prompt) + len(row.reply) for row in firsts]
    names = [f"{row.name} {index:09d}" for index, row in enumerate(firsts)]
    found: dict[int, Likelihood] = {}
    for batch in by_length(lengths, names, batch_size):
        longest = max(len(firsts[index].reply) for index in batch)
        size = max(1, MOST_LOGITS // (longest * len(loaded.tokenizer)))
        for start in range(0, len(batch), size):
            here = [firsts[index] for index in batch[start : start + size]]
            for row, logits in zip(here, _logits(loaded, arm, here), strict=True):
                for index in inputs[row.prompt, row.reply[:-1]]:
                    found[index] = _likelihood(logits, rows[index].reply)
                    check_finite(arm.name, rows[index].name, loaded.model.dtype, found[index].total)
    return [found[index] for index in range(len(rows))]


def _logits(
    loaded: LoadedModel, arm: Arm, rows: Sequence[Forced]
) -> list[Float[Tensor, "tokens vocabulary"]]:
    """Logits of the reply tokens of every row."""
    whole = with_companions([row.prompt for row in rows], [arm] * len(rows))
    leaders = [whole.leaders.get(index, index) for index in range(len(whole.prompts))]
    replies = [rows[leader].reply[:-1] for leader in leaders]
    batch, width = _aligned(loaded, whole.prompts, replies)
    kept = batch.input_ids.shape[1] - width + 1
    mask = batch.attention_mask[:, :width]
    with steer(loaded, whole.arms, mask, twins=whole.twins, donors=whole.donors):
        output = loaded.forward(batch, kept)
    return [output.logits[index, : len(row.reply)] for index, row in enumerate(rows)]


def _aligned(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]
) -> tuple[Batch, int]:
    """Prompts padded on the left, replies on the right; and the width of the prompts."""
    left = loaded.batch(prompts)
    width, longest = left.input_ids.shape[1], max(len(reply) for reply in replies)
    padding = int(loaded.tokenizer.pad_token_id or 0)
    ids = torch.full((len(replies), longest), padding)
    mask = torch.zeros(len(replies), longest, dtype=torch.long)
    for row, reply in enumerate(replies):
        ids[row, : len(reply)] = torch.tensor(reply, dtype=torch.long)
        mask[row, : len(reply)] = 1
    input_ids = torch.cat([left.input_ids, ids.to(loaded.device)], dim=1)
    attention = torch.cat([left.attention_mask, mask.to(loaded.device)], dim=1)
    positions = (attention.cumsum(dim=-1) - 1).clamp(min=0)
    return Batch(input_ids, attention, positions), width


def _likelihood(logits: Float[Tensor, "tokens vocabulary"], reply: Sequence[int]) -> Likelihood:
    targets: Int[Tensor, " tokens"] = torch.tensor(reply, device=logits.device)
    total = 0.0
    for start in range(0, len(reply), CHUNK):
        part = logits[start : start + CHUNK].double()
        wanted = targets[start : start + CHUNK]
        picked = part.gather(-1, wanted[:, None])[:, 0]
        total += float((picked - part.logsumexp(dim=-1)).sum())
    return Likelihood(total, bool((logits.argmax(dim=-1) == targets).all()))
