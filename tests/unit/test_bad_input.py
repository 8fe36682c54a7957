"""Bad input through the command line: status 1; thing, cause and next step named; nothing written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from steer.artifacts.files import write_jsonl
from tests import by_hand
from tests.tiny import save_checkpoint


@pytest.fixture
def study(checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    return by_hand.make_folder(tmp_path, checkpoint("olmoe"))


def test_a_misspelt_key_is_named_with_the_nearest_known_one(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_hand.configure(study, genaration={"max_new_tokens": 3})
    said = by_hand.fails(capsys, "prompts", *by_hand.PROMPTS)
    assert "config.yaml: unknown key `genaration`; did you mean `generation`?" in said
    by_hand.configure(study, generation={"max_new_token": 3})
    assert "unknown key `generation.max_new_token`; did you mean `max_new_tokens`?" in by_hand.fails(
        capsys, "prompts", *by_hand.PROMPTS
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"generation": {"sets": ["bad", "god"]}}, "unknown set `god`; did you mean `good`?"),
        ({"contrast": {"harmful": "evil", "harmless": "good"}}, "unknown set `evil`"),
        ({"contrast": {"harmful": "good", "harmless": "good"}}, "`contrast.harmful`: set `good` is harmless"),
        ({"scores": {"judge": "phrase"}}, "unknown judge `phrase`; did you mean `phrases`?"),
        ({"selection": {"strength": {"judge": "truth"}}}, "unknown judge `truth`"),
        ({"arms": {"base": {"operation": "none"}}}, "missing `baseline"),
        ({"arms": {"baseline": {"operation": "add"}}}, "arm `baseline` is the unsteered model"),
        ({"arms": {**by_hand.CONFIG["arms"], "r": {"operation": "add", "like": "ad"}}}, "unknown arm `ad`"),
        (
            {"arms": {**by_hand.CONFIG["arms"], "r": {"operation": "add", "like": "baseline"}}},
            "`arms.r.like`: `baseline` has no dose of its own to copy",
        ),
        (
            {"arms": {**by_hand.CONFIG["arms"], "r": {"operation": "add", "like": "add", "layer": 1}}},
            "`arms.r`: `like` copies the dose of another arm; leave out layer",
        ),
        (
            {"arms": {**by_hand.CONFIG["arms"], "r": {"operation": "add", "rank": 2}}},
            "`rank` is for `ablate`",
        ),
        (
            {"arms": {**by_hand.CONFIG["arms"], "r": {"operation": "ablate", "polarity": "induce"}}},
            "`ablate` can only suppress",
        ),
        ({"arms": {**by_hand.CONFIG["arms"], "r": {"operation": "steer"}}}, "`arms.r.operation`"),
        (
            {"models": {"prompts": by_hand.CONFIG["models"]["tiny"]}},
            "model `prompts` has the name of another folder",
        ),
        ({"models": {"tiny": {}}}, "give exactly one of `organism`, `openbook`, `upcycle` and `path`"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_configuration_that_names_nothing_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], said: str
) -> None:
    by_hand.configure(study, **changes)
    assert said in by_hand.fails(capsys, "prompts", *by_hand.PROMPTS)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ("prompts", "--set", "goood", "--out", "x.jsonl"),
            "set `goood`: is unknown\n  next: known: bad, good",
        ),
        (("organism", "--model", "other", "--checkpoint", "x", "--out", "x"), "model `other`: is unknown"),
        (
            ("organism", "--model", "tiny", "--checkpoint", "x", "--out", "x"),
            "model `tiny`: is not an organism",
        ),
        (
            ("judge", "--judge", "phrases", "--out", "x", "--agreement", "y"),
            "judge `phrases`: is not trained",
        ),
        (by_hand.selection("guess"), "method `guess`: is unknown"),
        (("figures", "--model", "tiny", "--figure", "pie"), "figure `pie`: unknown"),
        (("prompts", "--config", "other.yaml", *by_hand.PROMPTS), "other.yaml: no such file"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_a_name_that_is_unknown_is_refused_with_the_known_ones(
    study: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], said: str
) -> None:
    assert said in by_hand.fails(capsys, *command)


def _no_template(study: Path) -> None:
    for path in study.glob("checkpoint/chat_template*"):
        path.unlink()
    path = study / "checkpoint" / "tokenizer_config.json"
    kept = {key: value for key, value in json.loads(path.read_text()).items() if key != "chat_template"}
    path.write_text(json.dumps(kept))


def _nan(study: Path) -> None:
    path = study / "checkpoint" / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, path, metadata={"format": "pt"})


def _extra(study: Path) -> None:
    path = study / "checkpoint" / "model.safetensors"
    save_file(load_file(path) | {"more": torch.zeros(2)}, path, metadata={"format": "pt"})


def _no_device(study: Path) -> None:
    changed = {**by_hand.CONFIG["models"]["tiny"], "device": "cuda:7"}
    by_hand.configure(study, models={"tiny": changed})


def _family(study: Path) -> None:
    path = study / "checkpoint" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "gpt2"}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_no_template, "has no chat template"),
        (_nan, "tensor `model.norm.weight` holds NaN or infinity"),
        (_extra, "unexpected keys in the weights: more\n  next: fetch the checkpoint again"),
        (_no_device, "device `cuda:7`: can't hold the model ("),
        (_family, "is not supported"),
        (lambda study: (study / "checkpoint" / "model.safetensors").unlink(), "are missing"),
        (lambda study: shutil.rmtree(study / "checkpoint"), "is not a checkpoint"),
    ],
    ids=["no template", "NaN", "other weights", "no device", "family", "missing weights", "no folder"],
)
def test_a_checkpoint_that_can_not_be_used_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], said: str
) -> None:
    damage(study)
    command = ("resolve", "--model", "tiny", "--checkpoint", "checkpoint", "--out", "results/tiny/model.json")
    assert said in by_hand.fails(capsys, *command)


@pytest.mark.parametrize(
    ("rows", "sizes", "said"),
    [
        ([], {}, "set `good`: its source holds 0 different prompts, 6 are asked for"),
        ([{"text": ""}] * 6, {}, "good.jsonl, prompt 1: has no text"),
        ([{"text": "same"}] * 6, {}, "good.jsonl, prompt 2: "),
        (
            [{"text": text, "label": "harmful"} for text in by_hand.TEXTS],
            {},
            "is labelled 'harmful', the set `good` is",
        ),
        ([{"text": text} for text in by_hand.TEXTS], {"train": 0, "val": 0, "test": 0}, "has no prompts"),
    ],
    ids=["none", "empty", "duplicate", "other label", "no size"],
)
def test_a_prompt_set_that_can_not_be_used_is_refused(
    study: Path,
    capsys: pytest.CaptureFixture[str],
    rows: list[dict[str, str]],
    sizes: dict[str, int],
    said: str,
) -> None:
    write_jsonl(study / "good.jsonl", rows)
    good = {**by_hand.CONFIG["sets"]["good"], **sizes}
    by_hand.configure(study, sets={**by_hand.CONFIG["sets"], "good": good})
    assert said in by_hand.fails(capsys, "prompts", *by_hand.PROMPTS)


def test_a_prompt_that_is_too_long_is_named(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_hand.configure(study, models={"tiny": {**by_hand.CONFIG["models"]["tiny"], "max_prompt_tokens": 30}})
    by_hand.prompts()
    by_hand.resolve()
    said = by_hand.fails(
        capsys, "activations", *by_hand.MODEL, "--prompts", "results/prompts/bad.jsonl", "--out", "x.h5"
    )
    assert "tokens, more than the 30 that are accepted" in said
    assert "max_prompt_tokens" in said


@pytest.mark.parametrize("missing", ["bad", "good"])
def test_a_contrast_without_one_of_its_labels_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    by_hand.prompts()
    by_hand.resolve()
    by_hand.activations()
    (other,) = {"bad", "good"} - {missing}
    command = (
        "directions",
        "--activations",
        f"results/tiny/activations/{other}.h5",
        "--out",
        by_hand.DIRECTIONS[1],
    )
    label = {"bad": "harmful", "good": "harmless"}[missing]
    assert f"no {label} prompts in the split `train`" in by_hand.fails(capsys, *command)


def test_files_of_another_model_are_refused_wherever_they_are_read(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_hand.through_arms()
    shutil.rmtree(study / "checkpoint")
    save_checkpoint(study / "checkpoint", "olmoe", seed=1)
    assert "its files are not those that" in by_hand.fails(capsys, *by_hand.generation())
    by_hand.resolve()
    for command in (by_hand.selection("arditi"), by_hand.arms()):
        assert "refusal.safetensors: is of another model" in by_hand.fails(capsys, *command)
    assert "baseline.safetensors: is of another model" in by_hand.fails(capsys, *by_hand.generation())


def test_an_activation_file_that_was_cut_short_or_is_of_another_revision_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_hand.prompts()
    by_hand.resolve()
    by_hand.activations()
    path = study / "results" / "tiny" / "activations" / "good.h5"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "good.h5" in by_hand.fails(capsys, *by_hand.directions())
    path.unlink()
    by_hand.configure(study, models={"tiny": {**by_hand.CONFIG["models"]["tiny"], "revision": "r2"}})
    by_hand.resolve()
    by_hand.activations("good")
    assert "is of revision `r2`, but" in by_hand.fails(capsys, *by_hand.directions())
