"""Activation files: what a model did at the last P tokens of every prompt of a set.

HDF5, contract version 1; N prompts in the order of the prompt file, P positions (index −1 is the last
prompt token), L layers, M of them with a router, E experts, K chosen, d hidden:

    prompt_id, split, label [N]     text
    n_tokens [N]                    length of the prompt, chat template included
    refusal_score [N]               log-odds of a refusal's first token (steer.models.scoring), nats
    residual [N, L+1, P, d]         entering each layer; index L leaves the last one
    attention_out, mlp_out [N, L, P, d]  what each adds to the residual stream
    moe_input [N, M, P, d]          what router and experts see
    router_logits [N, M, P, E]      float32
    expert_index [N, M, P, K]       int16, by falling weight
    expert_weight [N, M, P, K]      float32, as the model uses it
    expert_count [N, M, E]          how often each expert was chosen over the span (top-k)
    strongest_count [N, M, E]       how often each one was the strongest over the span (top-1)
    token_count [N]                 tokens of the span

The span is the last P prompt tokens, or for a paired set its target: then the model read the target as well,
and everything with a P is still of the last prompt tokens, ahead of it or around it. The six router datasets
are absent for a dense model (M = 0), whose `moe_layers` is empty. Attributes:
`contract`, `model` (digest of the checkpoint), `revision` (empty when none is configured), `dtype` (of
the stored activations), `positions`, `span`, `moe_layers`, `complete`, `provenance` (JSON). Everything
with more than one number a prompt is chunked by prompt and compressed; other programs read Zstandard
after `import hdf5plugin`.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers the filters that the files are packed with
import numpy as np
from jaxtyping import Shaped

from steer.artifacts import CONTRACT_VERSION
from steer.artifacts.prompts import Label, Split
from steer.errors import SteerError

ROUTER_DATASETS = (
    "moe_input",
    "router_logits",
    "expert_index",
    "expert_weight",
    "expert_count",
    "strongest_count",
)
REBUILD = "remove the file and run the activations stage again"

Array = np.ndarray[Any, np.dtype[Any]]


class ActivationFile:
    """A finished activation file, checked when it is opened and read in blocks of prompts.

    Args:
        path: the file.
        model: digest of the checkpoint that it must be of; None accepts any.
        revision: revision of the model that it must be of; None accepts any.
        prompt_ids: ids that it must hold, in order; None accepts any.

    Attributes:
        model: digest of the checkpoint.
        revision: its configured revision, or an empty string.
        positions: P.
        span: tokens that `expert_count` and `token_count` count.
        moe_layers: indices of the layers that have a router.
        prompt_ids: id of each row.
        splits: split of each row.
        labels: label of each row.

    Raises:
        SteerError: the file is missing, cut short, unfinished, of another contract, or not what is
            expected; the message names what was found and what was expected.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        model: str | None = None,
        revision: str | None = None,
        prompt_ids: Sequence[str] | None = None,
    ) -> None:
        self.path = Path(path)
        self._file = self._open()
        try:
            self._check_whole()
            self.model = str(self._attribute("model"))
            self.revision = str(self._attribute("revision"))
            self.positions = int(self._attribute("positions"))
            self.span = str(self._attribute("span"))
            self.moe_layers = tuple(int(layer) for layer in self._attribute("moe_layers"))
            self.provenance: dict[str, Any] = json.loads(self._attribute("provenance"))
            self.prompt_ids = self._texts("prompt_id")
            self.splits = self._texts("split")
            self.labels = self._texts("label")
            self._expect("model", self.model, model)
            self._expect("revision", self.revision, revision)
            self._expect_prompts(prompt_ids)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "ActivationFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def rows(self, *, split: Split | None = None, label: Label | None = None) -> list[int]:
        """Indices of the prompts of a split and a label."""
        return [
            row
            for row, found in enumerate(zip(self.splits, self.labels, strict=True))
            if split in (None, found[0]) and label in (None, found[1])
        ]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one prompt's entry of a dataset."""
        return tuple(self._dataset(name).shape[1:])

    def blocks(
        self, name: str, rows: Sequence[int] | None = None, size: int = 32
    ) -> Iterator[Shaped[Array, "block ..."]]:
        """The entries of `rows` (rising; all when None), at most `size` prompts at a time.

        Raises:
            SteerError: the file has no such dataset, or its bytes are damaged.
        """
        dataset = self._dataset(name)
        chosen = range(len(self.prompt_ids)) if rows is None else rows
        for start in range(0, len(chosen), size):
            try:
                yield dataset[list(chosen[start : start + size])]
            except OSError as error:
                raise self._error(f"dataset `{name}` can't be read ({error})") from error

    def values(self, name: str, rows: Sequence[int] | None = None) -> Shaped[Array, " n"]:
        """One number a prompt, such as `refusal_score`, of `rows` (all when None)."""
        column: Array = self._dataset(name)[...]
        return column if rows is None else column[list(rows)]

    def _open(self) -> h5py.File:
        try:
            return h5py.File(self.path, "r")
        except FileNotFoundError as error:
            raise SteerError(str(self.path), "no such file", "run the activations stage first") from error
        except OSError as error:
            raise self._error(f"is cut short or is not HDF5 ({error})") from error

    def _error(self, cause: str) -> SteerError:
        return SteerError(str(self.path), cause, REBUILD)

    def _check_whole(self) -> None:
        self._expect("contract", str(self._attribute("contract")), str(CONTRACT_VERSION))
        if not bool(self._attribute("complete")):
            raise self._error("is not complete: the stage that wrote it was stopped")

    def _attribute(self, name: str) -> Any:
        if name not in self._file.attrs:
            raise self._error(f"is no activation file: it lacks attribute `{name}`")
        return self._file.attrs[name]

    def _dataset(self, name: str) -> h5py.Dataset:
        if name in self._file:
            return self._file[name]
        if name in ROUTER_DATASETS and not self.moe_layers:
            raise SteerError(
                str(self.path), f"has no `{name}`: the model has no MoE layers", "use a model with experts"
            )
        raise self._error(f"lacks dataset `{name}`")

    def _texts(self, name: str) -> list[str]:
        return [str(text) for text in self._dataset(name).asstr()[...]]

    def _expect(self, what: str, found: str, expected: str | None) -> None:
        if expected is not None and found != expected:
            raise self._error(f"is of another {what}: expected `{expected}`, found `{found}`")

    def _expect_prompts(self, expected: Sequence[str] | None) -> None:
        if expected is None or list(expected) == self.prompt_ids:
            return
        pairs = zip(expected, self.prompt_ids, strict=False)
        row = next((row for row, (left, right) in enumerate(pairs) if left != right), None)
        where = (
            "" if row is None else f"; row {row}: expected `{expected[row]}`, found `{self.prompt_ids[row]}`"
        )
        raise self._error(
            f"is of other prompts: expected {len(expected)}, found {len(self.prompt_ids)}{where}"
        )
