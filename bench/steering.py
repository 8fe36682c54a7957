"""Steered generation against transformers' own `generate` at equal batch and equal length."""

from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import GenerationConfig

from bench.models import models, token_rows
from bench.timing import Line, rate, seconds
from steer.models.decoding import generate
from steer.models.interventions import Arm, Operation, unit
from steer.models.loading import LoadedModel

ROWS, TOKENS, ROUNDS = 32, 32, 7
# A length that no end-of-turn token cuts: both ways do the same number of steps.
TARGETS = {"mid": ">= 0.95", "organism": "(shown)"}


def arms(loaded: LoadedModel) -> dict[str, Arm]:
    """One arm of each operation, weak enough to leave lengths alone."""
    generator = torch.Generator().manual_seed(0)
    r = torch.randn(loaded.hidden_size, generator=generator)
    layer = loaded.layers // 2
    pair = torch.stack([r, torch.zeros_like(r)])
    return {
        "add": Arm("add", (Operation("add", "r", layer, 1e-3),), {"r": r}),
        "affine": Arm("affine", (Operation("affine", "pair", layer, 0.0),), {"pair": pair}),
        "ablate, all layers": Arm("ablate", (Operation("ablate", "basis"),), {"basis": unit(r)[None]}),
    }


def lines(folder: Path) -> Iterator[Line]:
    """Tokens per second of every operation, on every model."""
    for name, loaded in models(folder).items():
        loaded.model.generation_config.eos_token_id = None
        loaded.tokenizer.eos_token = None
        tokens = token_rows(loaded, ROWS)
        ways = {"naive": lambda loaded=loaded, tokens=tokens: plain(loaded, tokens)}
        for kind, arm in arms(loaded).items():
            ways[kind] = lambda loaded=loaded, tokens=tokens, arm=arm: generate(
                loaded, tokens, [arm] * ROWS, TOKENS
            )
        taken = seconds(ways, ROUNDS)
        for kind in arms(loaded):
            what = f"{name}: generate under {kind} / unsteered"
            yield rate(what, "tok/s", ROWS * TOKENS, taken, kind, TARGETS[name])


@torch.inference_mode()
def plain(loaded: LoadedModel, tokens: list[list[int]]) -> None:
    """Unsteered replies by transformers alone, decoded to text."""
    batch = loaded.batch(tokens)
    config = GenerationConfig(
        do_sample=False, max_new_tokens=TOKENS, pad_token_id=loaded.tokenizer.pad_token_id
    )
    ids = loaded.model.generate(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, generation_config=config
    )
    loaded.tokenizer.batch_decode(ids[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
