import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import GenerationConfig

from steer.errors import SteerError
from steer.models.chat import Chat
from steer.models.loading import LoadedModel, check_weights, left_padded, load_checkpoint
from tests.tiny import MOE_FAMILIES, build_model, build_tokenizer, save_checkpoint

Tiny = Callable[[str], LoadedModel]
Checkpoint = Callable[[str], Path]
Weights = dict[str, Tensor]

WEIGHTS = "model.safetensors"
QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A checkpoint that a test may break."""
    return Path(shutil.copytree(checkpoint("olmoe"), tmp_path / "checkpoint"))


def change_weights(folder: Path, change: Callable[[Weights], object]) -> None:
    weights = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def change_json(path: Path, **changes: Any) -> None:
    record = json.loads(path.read_text())
    record.update(changes)
    path.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))


# A whole checkpoint -----------------------------------------------------------------------------


def test_a_checkpoint_holds_the_model_that_was_saved(any_family: str, checkpoint: Checkpoint) -> None:
    loaded = load_checkpoint(checkpoint(any_family))
    saved = build_model(any_family).state_dict()
    found = loaded.model.state_dict()
    assert found.keys() == saved.keys()
    assert all(torch.equal(found[name], saved[name]) for name in saved)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_weights_in_several_shards_load_like_weights_in_one(
    family: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    whole = load_checkpoint(checkpoint(family))
    whole.model.save_pretrained(tmp_path, max_shard_size="50KB")
    build_tokenizer().save_pretrained(tmp_path)
    assert (tmp_path / f"{WEIGHTS}.index.json").is_file()
    sharded = load_checkpoint(tmp_path).model.state_dict()
    assert all(torch.equal(tensor, sharded[name]) for name, tensor in whole.model.state_dict().items())


def test_a_prompt_is_the_users_turn_in_the_models_own_template(checkpoint: Checkpoint) -> None:
    bare = load_checkpoint(checkpoint("olmoe"))
    told = load_checkpoint(checkpoint("olmoe"), spoken=Chat("Be brief."))
    user = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert bare.tokenizer.decode(bare.encode("Hello")) == user
    assert told.tokenizer.decode(told.encode("Hello")) == f"<|im_start|>system\nBe brief.<|im_end|>\n{user}"


def test_a_beginning_that_the_template_writes_is_not_added_again_by_the_tokenizer(tiny: Tiny) -> None:
    tokenizer = build_tokenizer()
    start = ("<|im_start|>", tokenizer.convert_tokens_to_ids("<|im_start|>"))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[start]
    )
    assert tokenizer.encode("Hello")[0] == start[1]
    prompt = replace(tiny("olmoe"), tokenizer=tokenizer).encode("Hello")
    assert prompt[:2] == tiny("olmoe").encode("Hello")[:2] != [start[1]] * 2


@pytest.mark.parametrize("lengths", [(3,), (1, 4, 2), (5, 5)])
def test_rows_end_in_the_last_column_and_positions_count_from_their_first_token(
    lengths: tuple[int, ...],
) -> None:
    rows = [[10 * row + index + 1 for index in range(length)] for row, length in enumerate(lengths)]
    batch = left_padded(rows, 0)
    for index, row in enumerate(rows):
        padding = max(lengths) - len(row)
        assert batch.input_ids[index].tolist() == [0] * padding + row
        assert batch.attention_mask[index].tolist() == [0] * padding + [1] * len(row)
        assert batch.position_ids[index, padding:].tolist() == list(range(len(row)))


def test_the_padding_token_changes_no_logit(checkpoint: Checkpoint) -> None:
    loaded = load_checkpoint(checkpoint("olmoe"))
    rows = [[1, 2, 3, 4, 5], [6, 7]]
    one, other = (loaded.next_token_logits(left_padded(rows, padding)) for padding in (256, 33))
    # Not to the bit: the experts of a MoE block see the padding beside the prompt.
    assert torch.allclose(one, other, atol=1e-5 * float(one.abs().max()))


def test_of_the_checkpoints_generation_settings_only_the_ends_of_a_reply_are_kept(folder: Path) -> None:
    change_json(folder / "generation_config.json", repetition_penalty=3.0, eos_token_id=[257, 65])
    kept = load_checkpoint(folder).model.generation_config
    assert kept.to_diff_dict().keys() <= {"eos_token_id", "transformers_version"}
    assert kept.eos_token_id == [257, 65]
    assert GenerationConfig.from_pretrained(folder).repetition_penalty == 3.0


def test_a_checkpoint_without_generation_settings_ends_replies_as_its_model_says(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    assert load_checkpoint(folder).model.generation_config.eos_token_id == 257


# What a user can meet ---------------------------------------------------------------------------


def refuse(folder: Path, message: str) -> None:
    """The error that ends the load names the thing, the cause and the next step."""
    with pytest.raises(SteerError, match=message) as caught:
        load_checkpoint(folder)
    assert caught.value.next_step


def test_a_folder_that_is_not_there_or_holds_no_model_is_named(tmp_path: Path) -> None:
    refuse(tmp_path / "nowhere", r"nowhere: is not a checkpoint \(no config.json\)(.|\n)*`path`")
    refuse(tmp_path, r"is not a checkpoint \(no config.json\)")
    file = tmp_path / "weights.bin"
    file.write_bytes(b"")
    refuse(file, r"weights.bin: is not a checkpoint")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model_type": "olm', "config.json: is cut short"),
        ("{}", "no `model_type`"),
        ("[]", "no `model_type`"),
    ],
)
def test_a_broken_configuration_is_named(folder: Path, content: str, message: str) -> None:
    (folder / "config.json").write_text(content)
    refuse(folder, message)


@pytest.mark.parametrize("family", ["gpt2", "a_family_that_nobody_knows"])
def test_a_family_without_a_layout_is_named(folder: Path, family: str) -> None:
    change_json(folder / "config.json", model_type=family)
    refuse(
        folder,
        f"model family `{family}`: is not supported; supported: axk2, .*olmoe(.|\n)*add a row to LAYOUTS",
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_named_with_its_file(folder: Path, value: float) -> None:
    change_weights(folder, lambda weights: weights[QUERY][0].fill_(value))
    refuse(folder, f"{WEIGHTS}: tensor `{QUERY}` holds NaN or infinity(.|\n)*fetch or train")


def test_a_missing_weight_file_is_named(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    refuse(folder, f"weights `{WEIGHTS}` are missing(.|\n)*fetch or train")


@pytest.mark.parametrize("kept", [0, 5, 100, -100])
def test_a_weight_file_cut_short_is_named(folder: Path, kept: int) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:kept])
    refuse(folder, f"{WEIGHTS}: can't be read(.|\n)*fetch or train")


def test_a_missing_or_cut_shard_and_a_broken_index_are_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    load_checkpoint(checkpoint("olmoe")).model.save_pretrained(tmp_path, max_shard_size="50KB")
    build_tokenizer().save_pretrained(tmp_path)
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    refuse(tmp_path, f"{shard.name}: can't be read")
    shard.unlink()
    refuse(tmp_path, f"weights `{shard.name}` are missing")
    index = tmp_path / f"{WEIGHTS}.index.json"
    index.write_text(index.read_text()[:50])
    refuse(tmp_path, f"{index.name}: is cut short or holds no `weight_map`")


def _expert(weights: Weights, matrix: str) -> str:
    return next(name for name in weights if f"layers.2.mlp.experts.5.{matrix}" in name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(QUERY), f"missing keys in the weights: {QUERY}"),
        (lambda w: w.pop("model.norm.weight"), "missing keys in the weights: model.norm.weight"),
        (lambda w: w.update({"model.extra": torch.zeros(2)}), "unexpected keys in the weights: model.extra"),
        (lambda w: w.update({QUERY: w[QUERY][:8].clone()}), rf"{QUERY} is \[8, 32\], not \[32, 32\]"),
        (lambda w: w.pop(_expert(w, "down")), "in the weights: model.layers.2.mlp.experts.down_proj is"),
        (lambda w: w.pop(_expert(w, "up")), "its weights don't make a model"),
    ],
    ids=["missing", "norm", "unexpected", "shape", "expert", "half an expert"],
)
def test_weights_that_are_not_the_familys_are_named(
    folder: Path, change: Callable[[Weights], object], message: str
) -> None:
    change_weights(folder, change)
    refuse(folder, f"{folder}: .*{message}(.|\n)*(check that the checkpoint|fetch the checkpoint again)")


def test_a_tokenizer_without_chat_template_is_an_error_that_says_why(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    refuse(folder, "has no chat template, so there is no way to tell(.|\n)*use a chat")


@pytest.mark.parametrize("content", [None, "{"])
def test_a_tokenizer_that_is_missing_or_broken_is_named(folder: Path, content: str | None) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink() if content is None else (folder / name).write_text(content)
    refuse(folder, f"{folder}: its tokenizer (can't be read|has no vocabulary)(.|\n)*fetch or train")


def test_a_template_that_rejects_a_system_turn_is_named(folder: Path) -> None:
    rejected = "{{ raise_exception('System role not supported') }}"
    rule = f"{{% if messages[0]['role'] == 'system' %}}{rejected}{{% endif %}}"
    template = folder / "chat_template.jinja"
    template.write_text(rule + template.read_text())
    assert load_checkpoint(folder).encode("Hello")
    with pytest.raises(SteerError, match=r"System role not supported(.|\n)*leave out `system_prompt`"):
        load_checkpoint(folder, spoken=Chat("Be brief."))


def test_whole_weights_pass_and_cost_no_model(tmp_path: Path) -> None:
    check_weights(save_checkpoint(tmp_path, "llama"))


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ({"num_experts": 16}, r"mismatched keys in the weights: model.layers.0.mlp.experts.down_proj is"),
        ({"num_experts": 4}, r"mismatched keys in the weights: model.layers.0.mlp.experts.down_proj is"),
        ({"num_experts_per_tok": 9}, r"olmoe: its config.json gives every token 9 of 8 experts"),
        ({"num_hidden_layers": 5}, r"missing keys in the weights: model.layers.4"),
        ({"num_hidden_layers": 3}, r"unexpected keys in the weights: model.layers.3"),
    ],
)
def test_a_configuration_that_lies_about_its_model_is_named(
    folder: Path, lie: dict[str, int], message: str
) -> None:
    change_json(folder / "config.json", **lie)
    with pytest.raises(SteerError, match=message):
        load_checkpoint(folder)
