"""An engine of vLLM in this process, and replies from it as they are finished."""

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from steer.errors import SteerError
from steer.models.capture import Capture
from steer.models.spans import Marked
from steer.vllm.capture import COUNTED, PROMPT, unpacked
from steer.vllm.rows import NO_ARM, TAG
from steer.vllm.support import installed
from steer.vllm.worker import QUALIFIED

# Requests that run at once, and how many wait behind them so that none of these places is ever free.
SEQUENCES, WAITING = 256, 256
# vLLM's own switches, unless the caller's environment has them. One process while one rank is enough.
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    # Its warnings are of what is switched off here on purpose, the tokenizer and compilation.
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
PROBE = (1, 2, 3, 4, 5, 6)
_started: list[str] = []


@dataclass(frozen=True)
class Ask:
    """A reply that is wanted.

    Attributes:
        id: its name, told back with the reply.
        arm: key of its arm, as `Engine.add_arm` gave it.
        tokens: the encoded prompt.
        reference: id of the unsteered request on the same prompt; its own, if it is that.
        limit: longest reply, in tokens.
        marks: further words of its tag.
    """

    id: str
    arm: str
    tokens: tuple[int, ...]
    reference: str
    limit: int
    marks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """A finished reply.

    Attributes:
        id: of its request.
        tokens: the reply, the token that ended it included.
        finish: `stop` at an end-of-turn token, `length` where the limit cut it.
        score: refusal score of its first token, nats.
        kl: divergence of the first token's distribution from the reference's, nats.
        fired: what the arm did, by the names of `firing.Fired`.
    """

    id: str
    tokens: list[int]
    finish: Literal["stop", "length"]
    score: float
    kl: float
    fired: dict[str, Any]


class Engine:
    """vLLM with a model and its hooks, proved by a first request. One a process.

    Args:
        checkpoint: folder of the model.
        model: digest of the checkpoint, which arm files name.
        dtype: of weights and passes.
        longest: most tokens of a prompt with its reply.
        refusal_tokens: first tokens of refusals.
        stops: tokens that end a reply.
        ranks: processes that every layer is spread over.

    Raises:
        SteerError: vLLM is not installed, or of another release; there is an engine in this process; it
            can't load the model; or the proof fails.
    """

    def __init__(
        self,
        checkpoint: Path | str,
        model: str,
        *,
        dtype: str,
        longest: int,
        refusal_tokens: Sequence[int],
        stops: Sequence[int],
        ranks: int = 1,
    ) -> None:
        installed()
        if _started:
            cause = f"one was started in this process, on {_started[0]}"
            raise SteerError("engine `vllm`", cause, "start another process for another engine")
        _started.append(str(checkpoint))
        self._stops, self._arms = list(stops), dict[str, bytes]()
        self._llm = _start(str(checkpoint), dtype, longest, ranks)
        self._call("steer_install", json.dumps({"model": model, "refusal_tokens": list(refusal_tokens)}))
        self._call("steer_watch")
        self._run_probe()
        self._call("steer_prove")

    def add_arm(self, path: Path | str) -> str:
        """Send an arm file to the workers; returns its key.

        Raises:
            SteerError: it is of another model, or can't fire on this one.
        """
        return str(self._call("steer_arm", Path(path).read_bytes()))

    def replies(self, asked: Iterable[Ask]) -> Iterator[list[Answer]]:
        """Replies as they are finished, those of one pass together.

        A reference has to come before the requests that name it, and is forgotten with the last of them.

        Raises:
            SteerError: a worker died, or an edit failed; what was given before stands.
        """
        waiting, running = deque(asked), dict[str, Ask]()
        open_references = _users(waiting)
        while waiting or running:
            while waiting and len(running) < SEQUENCES + WAITING:
                ask = waiting.popleft()
                running[ask.id] = ask
                self._submit(ask)
            finished = [one for one in self._step() if one.finished]
            if finished:
                yield self._collect([(running.pop(_own(one)), one) for one in finished], open_references)

    def capture(self, rows: Sequence[Marked], positions: int) -> tuple[Capture, list[float]]:
        """Activations at the last prompt tokens of some rows, and the refusal score behind each prompt.

        Args:
            rows: prompts, perhaps with a reply behind them, and what is counted.
            positions: how many of the last prompt tokens are kept, the same in every call.

        Raises:
            SteerError: a worker died.
        """
        self._call("steer_capture", positions)
        asked, scored = list[Ask](), list[str]()
        for number, row in enumerate(rows):
            name = f"captured {number}"
            marks = {PROMPT: str(row.prompt), COUNTED: f"{row.counted[0]} {row.counted[1]}"}
            asked.append(Ask(name, NO_ARM, row.ids, name, 1, marks))
            scored.append(name)
            if row.tail:
                # vLLM gives the logits behind the last token alone.
                scored[-1] = f"scored {number}"
                asked.append(Ask(scored[-1], NO_ARM, row.ids[: row.prompt], scored[-1], 1))
        names = [ask.id for ask in asked if ask.marks]
        scores = {answer.id: answer.score for group in self.replies(asked) for answer in group}
        content = self._llm.collective_rpc("steer_captured", args=(json.dumps(names),))[0]
        return unpacked(content), [scores[name] for name in scored]

    def _submit(self, ask: Ask) -> None:
        from vllm import SamplingParams

        tag = {"id": ask.id, "arm": ask.arm, "reference": ask.reference, **ask.marks}
        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=ask.limit,
            stop_token_ids=self._stops,
            ignore_eos=True,  # the ids that stop are named, all of them
            detokenize=False,
            extra_args={TAG: tag},
        )
        self._engine.add_request(ask.id, {"prompt_token_ids": list(ask.tokens)}, parameters)

    @property
    def _engine(self) -> Any:
        return self._llm.llm_engine

    def _step(self) -> list[Any]:
        try:
            return list(self._engine.step())
        except SteerError:
            raise
        except Exception as error:
            cause = f"a worker died ({type(error).__name__}: {error})"
            next_step = "run again: finished replies are kept; its own words stand above in the log"
            raise SteerError("engine `vllm`", cause, next_step) from error

    def _collect(self, finished: Sequence[tuple[Ask, Any]], users: dict[str, int]) -> list[Answer]:
        for ask, _ in finished:
            users[ask.reference] -= 1
        forget = sorted({ask.reference for ask, _ in finished if not users[ask.reference]})
        told = {"collect": [[ask.id, ask.arm] for ask, _ in finished], "forget": forget}
        known = self._call("steer_collect", json.dumps(told))
        return [_answer(ask, one, more) for (ask, one), more in zip(finished, known, strict=True)]

    def _call(self, method: str, *args: str | bytes | int) -> Any:
        """Call the extension on every rank; gives the answer of the first.

        Raises:
            SteerError: as a rank reports it.
        """
        answers = [json.loads(answer) for answer in self._llm.collective_rpc(method, args=args)]
        for answer in answers:
            if "error" in answer:
                raise SteerError(*answer["error"])
        return answers[0]["value"]

    def _run_probe(self) -> None:
        from vllm import SamplingParams

        tag = {"id": "probe", "arm": NO_ARM, "reference": "probe"}
        parameters = SamplingParams(
            temperature=0.0, max_tokens=1, ignore_eos=True, detokenize=False, extra_args={TAG: tag}
        )
        self._engine.add_request("probe", {"prompt_token_ids": list(PROBE)}, parameters)
        while self._engine.has_unfinished_requests():
            self._step()


def _start(checkpoint: str, dtype: str, longest: int, ranks: int) -> Any:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if ranks == 1:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from vllm import LLM

    settings: dict[str, Any] = {
        "dtype": dtype,
        "max_model_len": longest,
        "max_num_seqs": SEQUENCES,
        "tensor_parallel_size": ranks,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        # Compiled code passes hooks by, and cached keys and values are those of another arm.
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "async_scheduling": False,
        "worker_extension_cls": QUALIFIED,
        "disable_log_stats": True,
        "seed": 0,
    }
    try:
        return LLM(checkpoint, **settings)
    except (RuntimeError, ValueError, AssertionError, OSError) as error:
        cause = f"vLLM can't start on it ({type(error).__name__}: {error})"
        raise SteerError(
            checkpoint, cause, "its own words stand above; or set `engine: transformers`"
        ) from error


def _users(asked: Iterable[Ask]) -> dict[str, int]:
    users: dict[str, int] = {}
    for ask in asked:
        users[ask.reference] = users.get(ask.reference, 0) + 1
    return users


def _own(output: Any) -> str:
    return str(output.request_id)


def _answer(ask: Ask, output: Any, known: Mapping[str, Any]) -> Answer:
    made = output.outputs[0]
    if made.finish_reason not in ("stop", "length"):
        cause = f"request {ask.id} ended by `{made.finish_reason}`"
        raise SteerError("engine `vllm`", cause, "run again: finished replies are kept")
    finish: Literal["stop", "length"] = made.finish_reason
    return Answer(ask.id, list(made.token_ids), finish, known["score"], known["kl"], known["fired"])
