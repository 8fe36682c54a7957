"""Every MoE family of the installed transformers, tried with every row of the layouts on a tiny model.

`python -m tests.family_walk` prints the table that `data/families.csv` holds; a unit test compares the two,
and writes the file with `--fix`.
"""

import csv
import inspect
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from steer.errors import SteerError
from steer.models.architectures import LAYOUTS, Layout, expert_count
from steer.models.loading import LoadedModel
from steer.models.proof import prove
from steer.models.sites import resolve
from tests.tiny import FAMILIES, build_tokenizer, fill_biases

TABLE = Path(__file__).parents[1] / "data" / "families.csv"
COLUMNS = ("model_type", "kind", "proved", "by_hand", "routing_rule", "reason")
EXPERTS = re.compile(r"^class \w*Experts\w*\(", re.MULTILINE)

# Small settings by every name that families give them; those that a configuration does not know are left out.
SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "vocab_size_per_layer_input": 96,
    "hidden_size": 32,
    "intermediate_size": 24,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "shared_intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "moe_num_experts": 8,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_k": 2,
    "moe_topk": 2,
    "top_k_experts": 2,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "kv_lora_rank": 12,
    "q_lora_rank": 10,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6,
    "v_head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BY_HAND = {model_type for model_type, _ in FAMILIES.values()}
# Parameters of what counts as tiny; a configuration that nests others may ignore the small settings.
LARGEST = 2_000_000


@dataclass(frozen=True)
class Finding:
    """What was found of one family: a row of the table.

    Attributes:
        proved: whether a tiny model of it passes the proof at load, with its own row.
        by_hand: whether every intervention on it is compared with an oracle written by hand.
        reason: what the row that came furthest failed on; for a family without a row that passes with
            another's, whose.
    """

    model_type: str
    kind: str
    proved: str = "no"
    by_hand: str = "no"
    routing_rule: str = ""
    reason: str = ""


def moe_types() -> list[str]:
    """Model types of causal language models whose modelling file defines a module of experts."""
    found = []
    for model_type, class_name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        name = class_name if isinstance(class_name, str) else class_name[0]
        source = _source(name)
        if source and EXPERTS.search(source):
            found.append(str(model_type))
    return sorted(found)


def _source(class_name: str) -> str | None:
    model_class = getattr(transformers, class_name, None)
    if model_class is None:
        return None
    return Path(inspect.getfile(model_class)).read_text(encoding="utf-8")


def small_model(model_type: str) -> Any:
    """A tiny random model of a type, from whatever of `SMALL` its configuration knows."""
    known = AutoConfig.for_model(model_type).to_dict()
    settings = {name: value for name, value in SMALL.items() if name in known}
    if "kv_lora_rank" in known:  # latent attention has a key for every head
        settings["num_key_value_heads"] = settings["num_attention_heads"]
        settings.pop("head_dim", None)
    config = AutoConfig.for_model(model_type, **settings)
    with torch.device("meta"):
        size = sum(tensor.numel() for tensor in AutoModelForCausalLM.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"the settings that are known leave it at {size:,} parameters")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        fill_biases(model)
    return model.eval()


def shapes() -> Iterator[tuple[str, Layout]]:
    """Each different row of the layouts, under the first family that has it."""
    seen: list[Layout] = []
    for name, layout in LAYOUTS.items():
        if layout not in seen:
            seen.append(layout)
            yield name, layout


def look_at(model_type: str) -> Finding:
    """Try a family's own row, or every row where it has none."""
    own = LAYOUTS.get(model_type)
    kind = "dense" if own and own.router is None else "MoE"
    try:
        model = small_model(model_type)
    except Exception as error:  # noqa: BLE001 - whatever a library's constructor raises is the reason
        return Finding(model_type, kind, reason=f"no tiny model: {_short(error)}")
    best = (-1, "")
    for name, layout in [(model_type, own)] if own else [*shapes()]:
        if layout.router is None and kind == "MoE":
            continue
        stage, reason, rule = _try(model, layout)
        if not reason and own:
            by_hand = "yes" if model_type in BY_HAND else "no"
            return Finding(model_type, kind, "yes", by_hand, rule)
        best = max(best, (stage, reason or f"has no row; that of {name} fits"), key=lambda pair: pair[0])
    return Finding(model_type, kind, reason=best[1])


def _try(model: Any, layout: Layout) -> tuple[int, str, str]:
    """How far a row comes with a model, what stopped it, and its routing rule."""
    with mock.patch.dict(LAYOUTS, {model.config.model_type: layout}):
        try:
            sites = resolve(model)
        except SteerError as error:
            return 0, _short(error), ""
        except (AttributeError, TypeError) as error:
            return 1, f"its configuration lacks what the rule needs: {_short(error)}", ""
        loaded = LoadedModel(model.config.model_type, model, build_tokenizer(), sites, expert_count(model))
        try:
            prove(loaded)
        except SteerError as error:
            return 3, _short(error), ""
        except Exception as error:  # noqa: BLE001 - a wrong row may fail anywhere in the library
            return 2, f"{type(error).__name__}: {_short(error)}", ""
    return 4, "", sites.rule.name if sites.rule else ""


def _short(error: Exception) -> str:
    text = str(error).split("\n")[0].replace("the load-time proof failed: ", "")
    text = re.sub(r"^\S+ \(family \S+\), ", "", text)
    return text[:160]


def table(findings: list[Finding]) -> str:
    """The findings as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(one, name) for name in COLUMNS] for one in findings)
    return out.getvalue()


def walk() -> str:
    """The whole table: every type of experts, and the dense ones that have a row."""
    dense = [name for name, layout in LAYOUTS.items() if layout.router is None]
    return table([look_at(model_type) for model_type in (*moe_types(), *sorted(dense))])


if __name__ == "__main__":
    print(walk(), end="")
