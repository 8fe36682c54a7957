"""The untrained embedded model, in either architecture."""

from typing import Any

import torch
from transformers import (
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from steer.organism.settings import ModelShape


def build_model(settings: ModelShape, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A randomly initialised model whose weights depend on the seed alone.

    Embeddings are tied to the output: untied ones never learn to copy a word.
    """
    common: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": settings.hidden_size,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "num_key_value_heads": settings.heads,
        "num_experts": settings.experts,
        "num_experts_per_tok": settings.experts_per_token,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": settings.rope_theta},
        "initializer_range": settings.initializer_range,
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        if settings.architecture == "olmoe":
            return OlmoeForCausalLM(OlmoeConfig(intermediate_size=settings.expert_size, **common))
        config = Qwen3MoeConfig(
            intermediate_size=settings.expert_size,
            moe_intermediate_size=settings.expert_size,
            norm_topk_prob=True,
            **common,
        )
        return Qwen3MoeForCausalLM(config)
