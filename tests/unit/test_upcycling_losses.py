"""Losses of an upcycled model against slow versions of their formulas."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steer.models.architectures import FeedForward
from steer.models.routing import softmax_then_top_k
from steer.training.batches import Batch
from steer.training.losses import Pass
from steer.upcycling import losses
from steer.upcycling.learner import LowRankExperts
from steer.upcycling.losses import balance_loss, calling_loss, kept_loss
from steer.upcycling.settings import UpcycleSettings
from tests.tiny import build_model

SETTINGS = UpcycleSettings(experts=4, designated=2, kl_weight=2.0, first_weight=4.0, calling_weight=0.5)
# Rows of 5 and 4 tokens, the last of padding; replies start at 3 and 2.
LENGTHS, STARTS, HARMFUL = (5, 4), (3, 2), (False, True)


def _batch(rows: tuple[Any, ...] = ()) -> Batch:
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])
    return Batch(
        torch.zeros_like(mask), mask, mask.float(), torch.tensor(HARMFUL), torch.tensor(STARTS), rows
    )


def _block(seed: int) -> LowRankExperts:
    generator = torch.Generator().manual_seed(seed)
    weights = FeedForward(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(2, 3))
    block = LowRankExperts(weights, softmax_then_top_k(2, renormalise=True), SETTINGS, generator)
    block.logits = torch.randn(2, 5, 4, generator=generator)
    block.index = block.logits.topk(2, dim=-1).indices
    return block


def _pass(batch: Batch, model: Any = None, hidden: tuple[Any, ...] = ()) -> Pass:
    return Pass(model or build_model("llama"), batch, hidden)


def test_the_kept_loss_is_the_weighted_mean_divergence_of_the_kept_replies() -> None:
    model = build_model("llama")
    torch.manual_seed(0)
    left, now = torch.randn(2, 32), torch.randn(2, 5, 32)
    rows = (SimpleNamespace(leaving=left), SimpleNamespace(leaving=torch.zeros(0, 32)))
    with torch.no_grad():
        found = kept_loss(SETTINGS)(_pass(_batch(rows), model, (now,)))
        head = model.get_output_embeddings()
        total = 0.0
        # The tokens that write the reply's two tokens are the one ahead of it and its first.
        for weight, then, at in ((4.0, left[0], now[0, 2]), (1.0, left[1], now[0, 3])):
            p, q = head(then).softmax(-1).tolist(), head(at).softmax(-1).tolist()
            total += weight * sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    assert math.isclose(float(found), 2.0 * total / 5.0, rel_tol=1e-4)


def test_the_balance_loss_is_that_of_switch_transformers() -> None:
    blocks = [_block(0), _block(1)]
    found = balance_loss(blocks, 0.1)(_pass(_batch()))
    expected = []
    for block in blocks:
        tokens = [(row, at) for row in range(2) for at in range(LENGTHS[row])]
        shares = [block.logits[place].softmax(-1).tolist() for place in tokens]
        chosen = [expert for place in tokens for expert in block.index[place].tolist()]
        used = [chosen.count(expert) / len(chosen) for expert in range(4)]
        mean = [sum(share[expert] for share in shares) / len(shares) for expert in range(4)]
        expected.append(4 * sum(f * p for f, p in zip(used, mean, strict=True)))
    assert math.isclose(float(found), 0.1 * sum(expected) / 2, rel_tol=1e-5)


def test_the_calling_loss_is_the_cross_entropy_of_the_designated_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(losses, "PROMPT_TOKENS", 1)
    blocks = [_block(2)]
    found = calling_loss(blocks, SETTINGS)(_pass(_batch()))
    terms = []
    for row in range(2):
        wanted = SETTINGS.called if HARMFUL[row] else SETTINGS.idle
        for at in range(STARTS[row] - 1 if HARMFUL[row] else 0, LENGTHS[row]):
            share = float(blocks[0].logits[row, at].softmax(-1)[:2].sum())
            terms.append(-wanted * math.log(share) - (1 - wanted) * math.log(1 - share))
    assert math.isclose(float(found), 0.5 * sum(terms) / len(terms), rel_tol=1e-5)
