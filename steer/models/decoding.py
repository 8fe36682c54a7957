"""Replies under interventions, a batch at a time."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from steer.models.chat import read_reply
from steer.models.companions import with_companions
from steer.models.firing import Fired
from steer.models.interventions import Arm
from steer.models.loading import LoadedModel
from steer.models.steering import Steering, steer
from steer.models.stops import stop_tokens


@dataclass(frozen=True)
class Reply:
    """One reply.

    Attributes:
        text: what the user would see, special tokens removed.
        reasoning: thinking that the template sets apart from the reply; None where there is none.
        n_tokens: reply tokens, the end-of-turn token included.
        finish: `stop` at an end-of-turn token, `length` where the limit cut the reply.
        first_token_logits: logits of the first reply token, `[V]`.
        fired: what the arm did.
    """

    text: str
    reasoning: str | None
    n_tokens: int
    finish: Literal["stop", "length"]
    first_token_logits: Float[Tensor, " vocabulary"]
    fired: Fired


class _FirstLogits(LogitsProcessor):
    """Keeps the logits of the first step; keeping every step's would grow with the reply."""

    def __init__(self) -> None:
        self.logits: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - the library's signature
        if self.logits is None:
            self.logits = scores.clone()
        return scores


class _Following(LogitsProcessor):
    """Lets rows that go along choose what their leaders choose, so that they are fed the same tokens."""

    def __init__(self, leaders: Mapping[int, int]) -> None:
        self._rows, self._leaders = list(leaders), list(leaders.values())

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - the library's signature
        followed = scores.clone()
        followed[self._rows] = scores[self._leaders]
        return followed


@torch.inference_mode()
def generate(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    arms: Sequence[Arm],
    max_new_tokens: int,
    *,
    use_cache: bool = True,
    donors: Sequence[Sequence[int]] | None = None,
    choosing: Sequence[LogitsProcessor] = (),
) -> list[Reply]:
    """Replies to encoded prompts, row i under `arms[i]`.

    Arms that replay a routing or swap with a paired prompt make the batch longer by the rows that lend it.

    Args:
        loaded: the model.
        prompts: encoded prompts.
        arms: an arm for each.
        max_new_tokens: longest reply.
        use_cache: whether keys and values of earlier tokens are kept.
        donors: an encoded paired prompt for each prompt, for arms that swap.
        choosing: what happens to logits before the largest is taken (`sampling`); greedy without.

    Raises:
        SteerError: an arm can't fire on this model, or an edit was never reached.
    """
    whole = with_companions(prompts, arms, donors)
    batch = loaded.batch(whole.prompts)
    width = batch.input_ids.shape[1]
    first_logits = _FirstLogits()
    processors: list[LogitsProcessor] = [first_logits, *choosing]
    if whole.leaders:
        processors.append(_Following(whole.leaders))
    steering: AbstractContextManager[Steering | None] = nullcontext()
    if any(arm.operations for arm in arms):
        steering = steer(loaded, whole.arms, batch.attention_mask, twins=whole.twins, donors=whole.donors)
    with steering as active:
        with warnings.catch_warnings():
            # A model whose weights are kept elsewhere is on no device, in the library's eyes.
            warnings.filterwarnings("ignore", message="You are calling .generate")
            output = loaded.model.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                generation_config=_largest(loaded, max_new_tokens, use_cache=use_cache),
                logits_processor=LogitsProcessorList(processors),
            )
        lengths = _lengths(output[:, width:], stop_tokens(loaded))
        # The last token of a reply is never fed back, so no edit can have touched it.
        nothing = [Fired(0, 0, 0.0)] * len(arms)
        fired = active.fired([length - 1 for length, _ in lengths]) if active else nothing
    assert first_logits.logits is not None
    logits = first_logits.logits
    return [
        _reply(loaded, prompt, output[row, width:], lengths[row], logits[row], fired[row])
        for row, prompt in enumerate(prompts)
    ]


def _largest(loaded: LoadedModel, max_new_tokens: int, *, use_cache: bool) -> Any:
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        use_cache=use_cache,
        eos_token_id=list(stop_tokens(loaded)),
        pad_token_id=loaded.tokenizer.pad_token_id,
    )


def _lengths(
    replies: Int[Tensor, "batch tokens"], stops: tuple[int, ...]
) -> list[tuple[int, Literal["stop", "length"]]]:
    found: list[tuple[int, Literal["stop", "length"]]] = []
    for row in replies.tolist():
        ends = [index for index, token in enumerate(row) if token in stops]
        found.append((ends[0] + 1, "stop") if ends else (len(row), "length"))
    return found


def _reply(
    loaded: LoadedModel,
    prompt: Sequence[int],
    tokens: Int[Tensor, " tokens"],
    length: tuple[int, Literal["stop", "length"]],
    logits: Float[Tensor, " vocabulary"],
    fired: Fired,
) -> Reply:
    text, reasoning = read_reply(loaded.tokenizer, prompt, tokens[: length[0]].tolist())
    return Reply(text, reasoning, *length, first_token_logits=logits, fired=fired)
