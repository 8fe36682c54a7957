"""Steering by hand: one prompt at a time, no padding, no cache, plain hooks and plain formulas."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from steer.models.interventions import Arm, Operation
from steer.models.loading import LoadedModel


def _edited(h: Tensor, operation: Operation, tensor: Tensor) -> Tensor:
    """The formulas of the design, in float64, token by token."""
    h, tensor, c = h.double(), tensor.double(), operation.coefficient
    if operation.operation == "add":
        return h + c * tensor
    if operation.operation == "ablate":
        return h - c * sum((h @ b)[..., None] * b for b in tensor)
    r, mean = tensor
    r_hat = r / r.norm()
    return h - (h @ r_hat)[..., None] * r_hat + (mean @ r_hat) * r_hat + c * r


def _in_scope(h: Tensor, operation: Operation, tensor: Tensor, prompt_tokens: int) -> Tensor:
    edited = h.clone()
    first = prompt_tokens if operation.scope == "generated" else 0
    last = prompt_tokens if operation.scope == "prompt" else h.shape[1]
    edited[:, first:last] = _edited(h[:, first:last], operation, tensor).to(h.dtype)
    return edited


@contextmanager
def steered(model: Any, arm: Arm, prompt_tokens: int) -> Iterator[None]:
    """Hooks that edit by the arm; the first `prompt_tokens` tokens are the prompt."""
    handles = []
    for operation in arm.operations:
        tensor = arm.tensors[operation.tensor]

        def write(_module: Any, _args: Any, out: Any, o: Operation = operation, t: Tensor = tensor) -> Any:
            if isinstance(out, tuple):
                return (_in_scope(out[0], o, t, prompt_tokens), *out[1:])
            return _in_scope(out, o, t, prompt_tokens)

        def enter(_module: Any, args: Any, o: Operation = operation, t: Tensor = tensor) -> Any:
            return (_in_scope(args[0], o, t, prompt_tokens), *args[1:])

        if operation.operation == "ablate":
            writers = [model.model.embed_tokens]
            writers += [part for layer in model.model.layers for part in (layer.self_attn, layer.mlp)]
            handles += [writer.register_forward_hook(write) for writer in writers]
        else:
            handles.append(model.model.layers[operation.layer].register_forward_pre_hook(enter))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def logits(loaded: LoadedModel, ids: Sequence[int], arm: Arm, prompt_tokens: int | None = None) -> Tensor:
    """Logits `[V]` after the last of `ids`."""
    with steered(loaded.model, arm, len(ids) if prompt_tokens is None else prompt_tokens):
        found: Tensor = loaded.model(torch.tensor([list(ids)]), use_cache=False).logits[0, -1]
    return found


def greedy(loaded: LoadedModel, ids: Sequence[int], arm: Arm, limit: int) -> list[int]:
    """Reply tokens, the end-of-turn token included."""
    reply: list[int] = []
    while len(reply) < limit:
        token = int(logits(loaded, [*ids, *reply], arm, len(ids)).argmax())
        reply.append(token)
        if token == loaded.tokenizer.eos_token_id:
            break
    return reply


@torch.inference_mode()
def entering(loaded: LoadedModel, ids: Sequence[int], arm: Arm, positions: int) -> Tensor:
    """What enters layers 1 to L, edits included, at the last tokens: `[L, P, d]`, float64."""
    seen: list[Tensor] = []
    layers = loaded.model.model.layers

    def keep(h: Tensor) -> None:
        seen.append(h[0, -positions:].double())

    with steered(loaded.model, arm, len(ids)):
        handles = [layer.register_forward_pre_hook(lambda _, args: keep(args[0])) for layer in layers[1:]]
        handles.append(layers[-1].register_forward_hook(lambda _m, _args, out: keep(out)))
        loaded.model(torch.tensor([list(ids)]), use_cache=False)
        for handle in handles:
            handle.remove()
    return torch.stack(seen)


def refusal_score(logits: Tensor, refusal_tokens: Sequence[int]) -> float:
    """Log-odds of the refusal tokens, nats."""
    p = torch.softmax(logits.double(), dim=0).tolist()
    refusing = sum(p[token] for token in refusal_tokens)
    other = sum(share for token, share in enumerate(p) if token not in refusal_tokens)
    return math.log(refusing) - math.log(other)


def kl(before: Tensor, after: Tensor) -> float:
    """KL(before ‖ after) in nats."""
    p, q = (torch.softmax(values.double(), dim=0).tolist() for values in (before, after))
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
