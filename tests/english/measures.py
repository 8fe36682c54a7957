"""How much of a dense model's English an upcycled one has kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steer.models.loading import LoadedModel

BATCH = 30
WINDOW = 256
"""Tokens that a text is read by at a time."""


@dataclass(frozen=True)
class Kept:
    """KL (nats a token) to the dense model over its own replies, and the share of equal choices."""

    kl: float
    first_kl: float
    same_choice: float
    tokens: int


@torch.inference_mode()
def kept(model: LoadedModel, dense: Any, tokenizer: Any, prompts: Sequence[str], length: int) -> Kept:
    """Mean over all tokens of the dense model's greedy replies of up to `length` tokens."""
    values: list[Tensor] = []
    firsts: list[Tensor] = []
    same: list[Tensor] = []
    for start in range(0, len(prompts), BATCH):
        rows = [model.encode(text) for text in prompts[start : start + BATCH]]
        for then, now in _replies(model, dense, tokenizer, rows, length):
            each = (then.exp() * (then - now)).sum(dim=-1)
            values.append(each)
            firsts.append(each[:1])
            same.append(then.argmax(dim=-1) == now.argmax(dim=-1))
    joined = torch.cat(values)
    means = (float(part.float().mean()) for part in (joined, torch.cat(firsts), torch.cat(same)))
    return Kept(*means, tokens=len(joined))


def _replies(
    model: LoadedModel, dense: Any, tokenizer: Any, rows: Sequence[list[int]], length: int
) -> Iterator[tuple[Float[Tensor, "token v"], Float[Tensor, "token v"]]]:
    """Of each row's reply, the dense model's log-probabilities of every next token, and the other's."""
    prompts = tokenizer.pad({"input_ids": list(rows)}, padding_side="left", return_tensors="pt")
    width = prompts["input_ids"].shape[1]
    tokens = dense.generate(**prompts, max_new_tokens=length, do_sample=False)
    grown = torch.ones(len(rows), tokens.shape[1] - width, dtype=torch.long)
    mask = torch.cat([prompts["attention_mask"], grown], dim=1)
    then, now = (_next(one, tokens, mask)[:, width - 1 : -1] for one in (dense, model.model))
    end = int(tokenizer.eos_token_id)
    for row in range(len(rows)):
        reply = tokens[row, width:].tolist()
        count = reply.index(end) + 1 if end in reply else len(reply)
        yield then[row, :count], now[row, :count]


def _next(model: Any, tokens: Int[Tensor, "row token"], mask: Int[Tensor, "row token"]) -> Tensor:
    places = (mask.cumsum(dim=-1) - 1).clamp(min=0)
    logits: Tensor = model(tokens, attention_mask=mask, position_ids=places).logits
    return logits.log_softmax(dim=-1)


@torch.inference_mode()
def perplexity(model: Any, tokenizer: Any, text: str) -> float:
    """Of a text, read in windows."""
    tokens = torch.tensor(tokenizer.encode(text, add_special_tokens=False))
    losses = []
    for window in tokens.split(WINDOW):
        found = model(window[None]).logits[0, :-1].log_softmax(dim=-1)
        losses.append(-found.gather(-1, window[1:, None])[:, 0])
    return float(torch.cat(losses).mean().exp())


def prose(path: Path) -> str:
    """The paragraphs of a Markdown file, without its headings, tables, lists and code."""
    paragraphs = path.read_text(encoding="utf-8").split("\n\n")
    kept_ones = [one for one in paragraphs if one[:1].isalpha() and "```" not in one and "|" not in one]
    return "\n\n".join(kept_ones)
