"""A steered model as lm-evaluation-harness sees one: any of its tasks, in the model's own chat template."""

from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from steer.errors import SteerError
from steer.models.batching import by_length
from steer.models.chat import fold_system, render_turns, try_system
from steer.models.decoding import generate
from steer.models.interventions import Arm
from steer.models.loading import LoadedModel
from steer.models.stops import stop_tokens
from steer.models.teacher_forcing import Forced, likelihoods

LONGEST_REPLY = 256
"""Tokens of a generated answer, where a task does not say (the harness's own default)."""


class SteeredLM(TemplateLM):  # type: ignore[misc]  # the harness is untyped
    """A model under an arm.

    In text without a prompt, which a task scores as a whole, the token before the text counts as the prompt
    and the text as generated.
    """

    def __init__(self, loaded: LoadedModel, arm: Arm, batch_size: int) -> None:
        super().__init__()
        self.loaded, self.arm, self.batch_size = loaded, arm, batch_size
        self.tokenizer = loaded.tokenizer
        self._folds = try_system(loaded.name, loaded.tokenizer, loaded.chat) != "kept"

    @property
    def eot_token_id(self) -> int:
        """The token that ends a reply."""
        return stop_tokens(self.loaded)[0]

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that has no prompt."""
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else int(first)

    @property
    def max_length(self) -> int:
        """Most tokens that the model can read."""
        return int(self.loaded.model.config.max_position_embeddings)

    @property
    def tokenizer_name(self) -> str:
        """Name of the model, under which the harness would cache requests."""
        return self.loaded.name.replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The turns of a task as the model reads them; a system turn that it can't read joins the user's."""
        turns = fold_system(chat_history) if self._folds else list(chat_history)
        loaded = self.loaded
        return render_turns(
            loaded.name, loaded.tokenizer, loaded.chat, turns, open_reply=add_generation_prompt
        )

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:  # noqa: ARG002
        """Token ids of a rendered text; the template has written the special tokens."""
        return list(self.tokenizer.encode(string, add_special_tokens=False))

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of both. The context stays as it is: its last token is where the model begins to write."""
        before, whole = self.tok_encode(context), self.tok_encode(context + continuation)
        joined = whole[: len(before)] == before and len(whole) > len(before)
        return before, whole[len(before) :] if joined else self.tok_encode(continuation)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-likelihood of every continuation, and whether greedy decoding writes it; logs no bars."""
        return list(super().loglikelihood(requests, disable_tqdm=disable_tqdm))

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,  # noqa: ARG002 - the harness's signature
        **kwargs: Any,  # noqa: ARG002
    ) -> list[tuple[float, bool]]:
        rows = []
        for (context, _), before, after in requests:
            if len(before) + len(after) - 1 > self.max_length:
                raise self._too_long(context, len(before) + len(after) - 1)
            rows.append(Forced(tuple(before), tuple(after), ""))
        found = likelihoods(self.loaded, self.arm, rows, self.batch_size)
        return [(one.total, one.greedy) for one in found]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:  # noqa: ARG002
        """Log-likelihood of whole texts, each in windows as long as the model can read."""
        rows: list[Forced] = []
        counts = []
        for request in requests:
            tokens = self.tok_encode(request.args[0])
            windows = get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, 1)
            before = len(rows)
            rows += [Forced(tuple(a), tuple(b), "") for a, b in map(make_disjoint_window, windows)]
            counts.append(len(rows) - before)
        found = iter(likelihoods(self.loaded, self.arm, rows, self.batch_size))
        return [sum(next(found).total for _ in range(count)) for count in counts]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002
        """Greedy replies, cut at the first text that ends an answer.

        Raises:
            SteerError: a task samples, or a prompt leaves no room for a reply.
        """
        prompts = [self.tok_encode(request.args[0]) for request in requests]
        wanted = [_wanted(request.args[1]) for request in requests]
        replies = [""] * len(requests)
        for limit in sorted({limit for limit, _ in wanted}):
            here = [index for index, (other, _) in enumerate(wanted) if other == limit]
            for part in by_length([len(prompts[index]) for index in here], [""] * len(here), self.batch_size):
                batch = [here[index] for index in part]
                for index, text in zip(batch, self._written([prompts[i] for i in batch], limit), strict=True):
                    replies[index] = _cut(text, wanted[index][1])
        return replies

    def _written(self, prompts: list[list[int]], limit: int) -> list[str]:
        longest = max(len(prompt) for prompt in prompts)
        if longest + limit > self.max_length:
            raise self._too_long(f"a prompt and a reply of {limit} tokens", longest + limit)
        written = generate(self.loaded, prompts, [self.arm] * len(prompts), limit)
        return [reply.text for reply in written]

    def _too_long(self, text: str, tokens: int) -> SteerError:
        cause = f"has {tokens} tokens, and the model reads {self.max_length}"
        return SteerError(f"`{text[:60]}…`", cause, "give the task fewer worked examples (`fewshot`)")


def _wanted(settings: dict[str, Any]) -> tuple[int, list[str]]:
    """Longest reply of a request in tokens, and the texts that end it."""
    if settings.get("do_sample") and settings.get("temperature", 1.0):
        raise SteerError("capability", "a task samples its answers", "set `do_sample: false` in its file")
    until = settings.get("until") or []
    limit = settings.get("max_gen_toks") or settings.get("max_tokens") or LONGEST_REPLY
    return int(limit), [until] if isinstance(until, str) else list(until)


def _cut(text: str, until: Sequence[str]) -> str:
    ends = [place for stop in until if stop and (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text
