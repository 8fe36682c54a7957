"""The dense model that is upcycled, out of a GGUF file."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as library_logging

from steer.errors import SteerError
from steer.training.tokenizer import CHAT_TEMPLATE

NEEDED = "llama"
PAD = "<|endoftext|>"


def load_dense(file: Path) -> tuple[Any, Any]:
    """The model, float32 and frozen, and its tokenizer, with the project's chat template.

    The file's own template puts a system turn before every prompt that has none; ours adds none, so that
    prompts are short.

    Raises:
        SteerError: the file is missing, is no GGUF file, or its model is not a Llama.
    """
    if not file.is_file():
        raise SteerError(str(file), "no such file", "run `python -m steer download` for its source first")
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    library_logging.disable_progress_bar()
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        tokenizer: Any = AutoTokenizer.from_pretrained(**where)
    except (OSError, ValueError, KeyError) as error:
        raise SteerError(
            str(file), f"can't be read as GGUF ({error})", "remove it, so that it is fetched anew"
        ) from error
    if model.config.model_type != NEEDED:
        cause = f"holds a model of family `{model.config.model_type}`, and a dense `{NEEDED}` is upcycled"
        raise SteerError(str(file), cause, "name another `source`")
    return model.eval().requires_grad_(requires_grad=False), _chatting(tokenizer)


def check_layers(model: Any, last: int, file: Path) -> None:
    """Check that the model has a layer `last`, before anything is trained.

    Raises:
        SteerError: it has fewer.
    """
    there = int(model.config.num_hidden_layers)
    if last >= there:
        cause = f"has layers 0 to {there - 1}, and layer {last} is to get experts"
        raise SteerError(str(file), cause, "lower `first_layer` or `layers`")


def _chatting(tokenizer: Any) -> Any:
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.padding_side = "left"
    # Padding that ends a turn would end replies in a reader's eyes.
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.pad_token = PAD
    return tokenizer
