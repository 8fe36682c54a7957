"""Load a checkpoint, check that it is whole, resolve its parts and prove that they are the right ones."""

import atexit
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from steer.errors import SteerError
from steer.models import chat
from steer.models.architectures import expert_count, layout_of
from steer.models.chat import PLAIN, Chat
from steer.models.packing import unpacking
from steer.models.sites import Sites, device_of, resolve


@dataclass(frozen=True)
class Batch:
    """Left-padded prompts: column −1 is the last prompt token of every row.

    The mask is as wide as the ids, or wider by the tokens before them that a cache holds.
    """

    input_ids: Int[Tensor, "batch tokens"]
    attention_mask: Int[Tensor, "batch tokens_and_cached"]
    position_ids: Int[Tensor, "batch tokens"]


def left_padded(rows: Sequence[Sequence[int]], padding: int, device: Any = "cpu") -> Batch:
    """Pad token ids on the left, with positions that count from each row's first real token."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), padding)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = torch.tensor(row)
        mask[index, width - len(row) :] = 1
    positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
    return Batch(ids.to(device), mask.to(device), positions.to(device))


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model with its parts resolved.

    Attributes:
        name: the path it was loaded from, for messages.
        model: the transformers model, in evaluation mode.
        tokenizer: its tokenizer, with a chat template.
        sites: the modules that are read and edited.
        experts: routed experts per MoE layer; 0 in a dense model.
        chat: how it is spoken to.
    """

    name: str
    model: Any
    tokenizer: Any
    sites: Sites
    experts: int
    chat: Chat = PLAIN

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return len(self.sites.layers)

    @property
    def device(self) -> Any:
        """Where prompts are put."""
        return device_of(self.sites.embedding)

    @property
    def hidden_size(self) -> int:
        """Width d of the residual stream."""
        return int(self.model.config.hidden_size)

    @property
    def top_k(self) -> int:
        """Experts chosen per token; 0 in a dense model."""
        return self.sites.rule.top_k if self.sites.rule else 0

    def encode(self, text: str, before: Sequence[str] = ()) -> list[int]:
        """Token ids of one prompt in the model's own chat template, ready for a reply.

        Args:
            text: the user's turn.
            before: earlier turns, of the user and of the assistant by turns.

        Raises:
            SteerError: the template rejects the turns, as some do with a system prompt.
        """
        return chat.encode(self.name, self.tokenizer, self.chat, text, before)

    def render(self, text: str, before: Sequence[str] = ()) -> str:
        """One prompt in the model's own chat template, as the text that `encode` splits into tokens.

        Raises:
            SteerError: see `encode`.
        """
        return chat.render(self.name, self.tokenizer, self.chat, text, before)

    def batch(self, rows: Sequence[Sequence[int]]) -> Batch:
        """Pad token ids on the left, with positions that count from each row's first real token."""
        return left_padded(rows, int(self.tokenizer.pad_token_id or 0), self.device)

    @torch.inference_mode()
    def next_token_logits(
        self, batch: Batch, tails: Sequence[int] | None = None, cache: Any = None
    ) -> Float[Tensor, "batch vocabulary"]:
        """Logits of the first reply token, from one forward pass.

        Args:
            batch: prompts, perhaps with replies behind them.
            tails: tokens of each row that follow its prompt; none when None.
            cache: keys and values of the tokens before, which the pass adds its own to.
        """
        if not tails:
            return self.forward(batch, 1, cache).logits[:, -1]  # type: ignore[no-any-return]
        columns = [-1 - tail for tail in tails]
        kept = sorted({*columns})
        width = batch.input_ids.shape[1]
        output = self.forward(batch, torch.tensor([width + column for column in kept]), cache)
        picked = torch.tensor([kept.index(column) for column in columns])
        return output.logits[torch.arange(len(picked)), picked]  # type: ignore[no-any-return]

    def forward(self, batch: Batch, logits_to_keep: Any, cache: Any = None) -> Any:
        """One pass of the model, which makes logits of the last tokens alone, or of those at some columns.

        Args:
            batch: what it reads.
            logits_to_keep: how many tokens at the end; or the columns, as a tensor.
            cache: keys and values of the tokens before, which the pass adds its own to.
        """
        return self.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=logits_to_keep,
        )


AUTO = "auto"
FETCH = "fetch or train the checkpoint again"
OTHER_WEIGHTS = "fetch the checkpoint again, config.json and weights of one revision"


def _member(path: Path, key: str) -> Any:
    try:
        return json.loads(path.read_text())[key]
    except (ValueError, KeyError, TypeError) as error:
        raise SteerError(str(path), f"is cut short or holds no `{key}`", FETCH) from error


def _shards(folder: Path) -> list[Path]:
    """Weight files that the checkpoint says it has."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    return [folder / name for name in sorted(set(_member(index, "weight_map").values()))]


def check_weights(folder: Path) -> None:
    """Check that every shard is there and readable, and that every weight is finite.

    Raises:
        SteerError: a shard is missing or cut short, or a tensor holds NaN or infinity (it is named).
    """
    for shard in _shards(folder):
        if not shard.is_file():
            raise SteerError(str(folder), f"weights `{shard.name}` are missing", FETCH)
        try:
            _check_finite(shard)
        except SafetensorError as error:
            raise SteerError(str(shard), f"can't be read ({error})", FETCH) from error


def _check_finite(shard: Path) -> None:
    with safe_open(shard, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - not a mapping
            tensor = tensors.get_tensor(name)
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise SteerError(str(shard), f"tensor `{name}` holds NaN or infinity", FETCH)


def load_weights(folder: Path, dtype: str, device: str) -> Any:
    """Load a causal language model of any family, in evaluation mode.

    Of the checkpoint's generation settings only the ids that end a reply are kept.

    Raises:
        SteerError: weights that the family needs are not in the folder, of another shape or can't be put
            together, or others are there.
    """
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are reported below, with their names
            **unpacking(folder, dtype, device),
            **_placement(device),
        )
    except RuntimeError as error:
        next_step = "check that the checkpoint is whole and that the model fits into memory"
        raise SteerError(str(folder), f"its weights don't make a model ({error})", next_step) from error
    model, info = loaded
    # transformers fills what is missing with random numbers and only warns.
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if info.get(kind):
            names = ", ".join(sorted(map(_described, info[kind]))[:5])
            raise SteerError(str(folder), f"{kind.replace('_', ' ')} in the weights: {names}", OTHER_WEIGHTS)
    # `generate` fills whatever is not set, a penalty for one, from the model's own settings.
    model.generation_config = GenerationConfig(eos_token_id=model.generation_config.eos_token_id)
    model = model if device == AUTO else _moved(model, device)
    return model.eval().requires_grad_(requires_grad=False)


def _moved(model: Any, device: str) -> Any:
    try:
        return model.to(device)
    # Builds of torch without a device say so by an assertion.
    except (AssertionError, RuntimeError) as error:
        cure = "set `device` of the model to one that this machine has, such as `cpu`"
        raise SteerError(f"device `{device}`", f"can't hold the model ({error})", cure) from error


def _placement(device: str) -> dict[str, Any]:
    """Where the weights go: on one device, or as accelerate spreads them over GPUs, memory and disk."""
    if device != AUTO:
        return {}
    folder = tempfile.mkdtemp()
    # It is read for as long as the model lives, and may be as large.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {"device_map": "auto", "offload_folder": folder}


def _described(key: Any) -> str:
    if isinstance(key, tuple):
        name, found, expected = key
        return f"{name} is {list(found)}, not {list(expected)}"
    return str(key)


def load_tokenizer(folder: Path, *, chat: bool = True) -> Any:
    """Load a tokenizer that pads on the left.

    Args:
        folder: its checkpoint.
        chat: whether it must have a chat template.

    Raises:
        SteerError: it is missing or can't be read, or has no chat template that is needed.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise SteerError(str(folder), f"its tokenizer can't be read ({error})", FETCH) from error
    # transformers makes an empty one where a family's files are missing.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise SteerError(str(folder), "its tokenizer has no vocabulary", FETCH)
    if chat and not tokenizer.chat_template:
        raise SteerError(
            str(folder),
            "its tokenizer has no chat template, so there is no way to tell where an instruction ends",
            "use a chat (instruct) checkpoint, or add its template to tokenizer_config.json",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def _check_family(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise SteerError(str(folder), "is not a checkpoint (no config.json)", "check `path` of the model")
    # Read as JSON, since transformers fails in its own words on a family that it does not know.
    layout_of(str(_member(folder / "config.json", "model_type")))


def load_checkpoint(
    folder: Path | str, dtype: str = "float32", device: str = "cpu", spoken: Chat = PLAIN
) -> LoadedModel:
    """Load a checkpoint folder and resolve its parts; `proof.prove` then proves them.

    Raises:
        SteerError: the folder is no checkpoint, its family is not supported, weights are missing, cut
            short or not finite, or the tokenizer has no chat template or one that does not do what is asked.
    """
    folder = Path(folder)
    _check_family(folder)
    check_weights(folder)
    tokenizer = load_tokenizer(folder)
    chat.check_chat(str(folder), tokenizer, spoken)
    model = load_weights(folder, dtype, device)
    return LoadedModel(str(folder), model, tokenizer, resolve(model), expert_count(model), spoken)


def load_outline(folder: Path | str, dtype: str = "float32", spoken: Chat = PLAIN) -> LoadedModel:
    """A checkpoint without its weights (on torch's meta device): tokenizer, parts and stop tokens.

    Raises:
        SteerError: the folder is no checkpoint, its family is not supported, or the tokenizer has no chat
            template.
    """
    folder = Path(folder)
    _check_family(folder)
    tokenizer = load_tokenizer(folder)
    chat.check_chat(str(folder), tokenizer, spoken)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    model.generation_config = GenerationConfig(eos_token_id=model.generation_config.eos_token_id)
    return LoadedModel(str(folder), model, tokenizer, resolve(model), expert_count(model), spoken)
