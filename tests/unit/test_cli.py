import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from steer.artifacts.files import read_jsonl, write_jsonl
from steer.cli import COMMANDS, main
from tests.tiny import save_checkpoint

ROOT = Path(__file__).parents[2]
TEXTS = ("a kite", "the blue door", "tea", "seven stones in a row", "winter", "an evening walk")
CONFIG: dict[str, Any] = {
    "models": {"tiny": {"path": "checkpoint", "refusal_openers": ["Sorry", "I"], "batch_size": 4}},
    "sets": {
        "bad": {"source": "bad.jsonl", "label": "harmful", "train": 2, "val": 2, "test": 2},
        "good": {"source": "good.jsonl", "label": "harmless", "train": 2, "val": 2, "test": 2},
    },
    "contrast": {"harmful": "bad", "harmless": "good"},
    "activations": {"positions": 2},
    "directions": {"filter": False},
    "selection": {
        "arditi": {"kl_threshold": 1e6, "induce_threshold": -1e6},
        "strength": {
            "coefficients": [1.0],
            "scopes": ["all"],
            "candidates": 1,
            "max_new_tokens": 3,
            "judge": "phrases",
        },
    },
    "arms": {
        "baseline": {"operation": "none"},
        "add": {"operation": "add", "polarity": "induce"},
        "ablate": {"operation": "ablate"},
    },
    "generation": {"sets": ["bad", "good"], "max_new_tokens": 4},
    "judges": {"phrases": {"kind": "phrases"}},
    "scores": {"judge": "phrases", "resamples": 100},
}
PROMPTS = ("--set", "good", "--raw", "good.jsonl", "--out", "results/prompts/good.jsonl")
MODEL = ("--config", "config.yaml", "--model", "tiny", "--facts", "results/tiny/model.json")
BOTH = ("--harmful", "results/prompts/bad.jsonl", "--harmless", "results/prompts/good.jsonl")
DIRECTIONS = ("--directions", "results/tiny/directions/refusal.safetensors")


@pytest.fixture
def study(checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration, a checkpoint and two files of prompts; commands run in it."""
    shutil.copytree(checkpoint("olmoe"), tmp_path / "checkpoint")
    for name in ("bad", "good"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": f"{name} {text}"} for text in TEXTS])
    _configure(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _configure(folder: Path, **changes: Any) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}))


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _run(*command: str) -> None:
    assert main(command) == 0


def _fails(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """What a failing command says; it ends with status 1 and leaves no file behind."""
    before = _files(Path())
    capsys.readouterr()
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "error: " in said
    assert "\n  next: " in said
    assert "Traceback" not in said
    assert _files(Path()) == before
    return said


def _prompts() -> None:
    for name in ("bad", "good"):
        _run("prompts", "--set", name, "--raw", f"{name}.jsonl", "--out", f"results/prompts/{name}.jsonl")


def _resolve() -> None:
    _run("resolve", "--model", "tiny", "--checkpoint", "checkpoint", "--out", "results/tiny/model.json")


def _activations(*names: str) -> None:
    for name in names or ("bad", "good"):
        files = ("--prompts", f"results/prompts/{name}.jsonl", "--out", f"results/tiny/activations/{name}.h5")
        _run("activations", *MODEL, *files)


def _directions(*names: str) -> tuple[str, ...]:
    files = [f"results/tiny/activations/{name}.h5" for name in ("bad", "good")]
    return ("directions", "--activations", *files, "--out", DIRECTIONS[1])


def _selection(method: str) -> tuple[str, ...]:
    out = ("--out", f"results/tiny/selection/{method}")
    return ("selection", "--method", method, *MODEL, *DIRECTIONS, *BOTH, *out)


def _arms() -> tuple[str, ...]:
    folders = ("--selection", "results/tiny/selection", "--out", "results/tiny/arms")
    return ("arms", "--facts", MODEL[-1], *DIRECTIONS, *folders)


def _generation() -> tuple[str, ...]:
    arms = [f"results/tiny/arms/{name}.safetensors" for name in CONFIG["arms"]]
    prompts = ("--prompts", "results/prompts/bad.jsonl", "--arms", *arms)
    return ("generation", *MODEL, *prompts, "--out", "results/tiny/generation/bad.jsonl")


def _through_arms() -> None:
    _prompts()
    _resolve()
    _activations()
    _run(*_directions())
    for method in ("arditi", "cosmic", "strength"):
        _run(*_selection(method))
    _run(*_arms())


def test_every_step_can_be_run_by_hand(study: Path) -> None:
    _through_arms()
    _run(*_generation())
    judging = ("--judge", "phrases", "--prompts", "results/prompts/bad.jsonl")
    files = (
        "--generation",
        "results/tiny/generation/bad.jsonl",
        "--out",
        "results/tiny/judging/bad.phrases.jsonl",
    )
    _run("judging", *judging, *files)
    rows = read_jsonl("results/tiny/judging/bad.phrases.jsonl")
    assert [row["arm"] for row in rows] == [name for name in CONFIG["arms"] for _ in range(2)]
    assert set(_files(study / "results")) >= {
        *("prompts/bad.jsonl", "tiny/model.json", "tiny/activations/good.h5", "tiny/directions/refusal.json"),
        *("tiny/selection/arditi.csv", "tiny/selection/strength.json", "tiny/arms/add.safetensors"),
        *("tiny/generation/bad.jsonl", "tiny/generation/bad.meta.json"),
    }
    assert not [name for name in _files(study) if "partial" in name or ".parts" in name]


def test_a_misspelt_key_is_named_with_the_nearest_known_one(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _configure(study, genaration={"max_new_tokens": 3})
    said = _fails(capsys, "prompts", *PROMPTS)
    assert "config.yaml: unknown key `genaration`; did you mean `generation`?" in said
    _configure(study, generation={"max_new_token": 3})
    assert "unknown key `generation.max_new_token`; did you mean `max_new_tokens`?" in _fails(
        capsys, "prompts", *PROMPTS
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"generation": {"sets": ["bad", "god"]}}, "unknown set `god`; did you mean `good`?"),
        ({"contrast": {"harmful": "evil", "harmless": "good"}}, "unknown set `evil`"),
        ({"contrast": {"harmful": "good", "harmless": "good"}}, "`contrast.harmful`: set `good` is harmless"),
        ({"scores": {"judge": "phrase"}}, "unknown judge `phrase`; did you mean `phrases`?"),
        ({"selection": {"strength": {"judge": "truth"}}}, "unknown judge `truth`"),
        ({"arms": {"base": {"operation": "none"}}}, "unknown arm `baseline`"),
        ({"arms": {"baseline": {"operation": "add"}}}, "arm `baseline` is the unsteered model"),
        ({"arms": {**CONFIG["arms"], "r": {"operation": "add", "like": "ad"}}}, "unknown arm `ad`"),
        (
            {"arms": {**CONFIG["arms"], "r": {"operation": "add", "like": "baseline"}}},
            "arm `r` is like `baseline`, which has no dose of its own to copy",
        ),
        (
            {"arms": {**CONFIG["arms"], "r": {"operation": "add", "like": "add", "layer": 1}}},
            "`arms.r`: `like` copies the dose of another arm; leave out layer",
        ),
        ({"arms": {**CONFIG["arms"], "r": {"operation": "add", "rank": 2}}}, "`rank` is for `ablate`"),
        (
            {"arms": {**CONFIG["arms"], "r": {"operation": "ablate", "polarity": "induce"}}},
            "`ablate` can only suppress",
        ),
        ({"arms": {**CONFIG["arms"], "r": {"operation": "steer"}}}, "`arms.r.operation`"),
        ({"models": {"prompts": CONFIG["models"]["tiny"]}}, "model `prompts` has the name of another folder"),
        ({"models": {"tiny": {}}}, "give exactly one of `organism` and `path`"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_configuration_that_names_nothing_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], said: str
) -> None:
    _configure(study, **changes)
    assert said in _fails(capsys, "prompts", *PROMPTS)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ("prompts", "--set", "goood", "--out", "x.jsonl"),
            "set `goood`: is unknown\n  next: known: bad, good",
        ),
        (("organism", "--model", "other", "--out", "x"), "model `other`: is unknown"),
        (("organism", "--model", "tiny", "--out", "x"), "model `tiny`: is not an organism"),
        (
            ("judge", "--judge", "phrases", "--out", "x", "--agreement", "y"),
            "judge `phrases`: is not trained",
        ),
        (_selection("guess"), "method `guess`: is unknown"),
        (("figures", "--model", "tiny", "--figure", "pie"), "figure `pie`: unknown"),
        (("prompts", "--config", "other.yaml", *PROMPTS), "other.yaml: no such file"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_a_name_that_is_unknown_is_refused_with_the_known_ones(
    study: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], said: str
) -> None:
    assert said in _fails(capsys, *command)


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


def _family(study: Path) -> None:
    path = study / "checkpoint" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "gpt2"}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_no_template, "has no chat template"),
        (_nan, "tensor `model.norm.weight` holds NaN or infinity"),
        (_family, "is not supported"),
        (lambda study: (study / "checkpoint" / "model.safetensors").unlink(), "are missing"),
        (lambda study: shutil.rmtree(study / "checkpoint"), "is not a checkpoint"),
    ],
    ids=["no template", "NaN", "family", "missing weights", "no folder"],
)
def test_a_checkpoint_that_can_not_be_used_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], said: str
) -> None:
    damage(study)
    command = ("resolve", "--model", "tiny", "--checkpoint", "checkpoint", "--out", "results/tiny/model.json")
    assert said in _fails(capsys, *command)


@pytest.mark.parametrize(
    ("rows", "sizes", "said"),
    [
        ([], {}, "set `good`: its source holds 0 different prompts, 6 are asked for"),
        ([{"text": ""}] * 6, {}, "good.jsonl, prompt 1: has no text"),
        ([{"text": "same"}] * 6, {}, "good.jsonl, prompt 2: "),
        (
            [{"text": text, "label": "harmful"} for text in TEXTS],
            {},
            "is labelled 'harmful', the set `good` is",
        ),
        ([{"text": text} for text in TEXTS], {"train": 0, "val": 0, "test": 0}, "has no prompts"),
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
    good = {**CONFIG["sets"]["good"], **sizes}
    _configure(study, sets={**CONFIG["sets"], "good": good})
    assert said in _fails(capsys, "prompts", *PROMPTS)


def test_a_prompt_that_is_too_long_is_named(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _configure(study, models={"tiny": {**CONFIG["models"]["tiny"], "max_prompt_tokens": 30}})
    _prompts()
    _resolve()
    said = _fails(capsys, "activations", *MODEL, "--prompts", "results/prompts/bad.jsonl", "--out", "x.h5")
    assert "tokens, more than the 30 that are accepted" in said
    assert "max_prompt_tokens" in said


@pytest.mark.parametrize("missing", ["bad", "good"])
def test_a_contrast_without_one_of_its_labels_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    _prompts()
    _resolve()
    _activations()
    (other,) = {"bad", "good"} - {missing}
    command = ("directions", "--activations", f"results/tiny/activations/{other}.h5", "--out", DIRECTIONS[1])
    label = {"bad": "harmful", "good": "harmless"}[missing]
    assert f"no {label} prompts in the split `train`" in _fails(capsys, *command)


def test_files_of_another_model_are_refused_wherever_they_are_read(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _through_arms()
    shutil.rmtree(study / "checkpoint")
    save_checkpoint(study / "checkpoint", "olmoe", seed=1)
    assert "its files are not those that" in _fails(capsys, *_generation())
    _resolve()
    for command in (_selection("arditi"), _arms()):
        assert "refusal.safetensors: is of another model" in _fails(capsys, *command)
    assert "baseline.safetensors: is of another model" in _fails(capsys, *_generation())


def test_an_activation_file_that_was_cut_short_or_is_of_another_revision_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _prompts()
    _resolve()
    _activations()
    path = study / "results" / "tiny" / "activations" / "good.h5"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "good.h5" in _fails(capsys, *_directions())
    path.unlink()
    _configure(study, models={"tiny": {**CONFIG["models"]["tiny"], "revision": "r2"}})
    _resolve()
    _activations("good")
    assert "is of revision `r2`, but" in _fails(capsys, *_directions())


def test_the_help_of_every_command_is_quick_and_needs_no_model_library() -> None:
    code = "import sys; from steer.cli import main; main(sys.argv[1:])"
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, "generation", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "answer prompts under every arm" in shown.stdout
    assert "--arms" in shown.stdout
    imported = {line.split("|")[-1].strip() for line in shown.stderr.splitlines()}
    assert not {"torch", "transformers", "h5py"} & imported


def test_a_command_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["steering"])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "invalid choice: 'steering'" in said
    assert all(f"'{name}'" in said for name in COMMANDS)


def test_the_module_runs_as_a_program_and_ends_with_the_status(study: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "steer", "prompts", "--set", "none", "--out", "x"],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 1
    assert shown.stderr == "error: set `none`: is unknown\n  next: known: bad, good\n"
