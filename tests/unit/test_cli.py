import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from steer.artifacts.files import read_jsonl
from steer.artifacts.shards import Shard
from steer.cli import COMMANDS, main
from steer.cli.flags import FLAGS
from steer.cli.parsing import parser
from tests import by_hand
from tests.figure_inputs.study import config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def study(checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    return by_hand.make_folder(tmp_path, checkpoint("olmoe"))


def test_every_step_can_be_run_by_hand(study: Path) -> None:
    by_hand.through_arms()
    by_hand.run(*by_hand.generation())
    judging = ("--judge", "phrases", "--prompts", "results/prompts/bad.jsonl")
    files = (
        "--generation",
        "results/tiny/generation/bad.jsonl",
        "--out",
        "results/tiny/judging/bad.phrases.jsonl",
    )
    by_hand.run("judging", *judging, *files)
    rows = read_jsonl("results/tiny/judging/bad.phrases.jsonl")
    assert [row["arm"] for row in rows] == [name for name in by_hand.CONFIG["arms"] for _ in range(2)]
    assert set(by_hand.files(study / "results")) >= {
        *("prompts/bad.jsonl", "tiny/model.json", "tiny/activations/good.h5", "tiny/directions/refusal.json"),
        *("tiny/selection/arditi.csv", "tiny/selection/strength.json", "tiny/arms/add.safetensors"),
        *("tiny/generation/bad.jsonl", "tiny/generation/bad.meta.json"),
    }
    assert not [name for name in by_hand.files(study) if "partial" in name or ".parts" in name]


def test_every_flag_says_what_to_give_it_and_some_command_has_it() -> None:
    used = {flag for command in COMMANDS.values() for flag in (*command.required, *command.optional)}
    assert used == set(FLAGS)
    assert all(flag.help for flag in FLAGS.values())


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


def test_a_kind_of_questions_that_is_not_there_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["questions", "--kind", "rumour", "--out", str(study / "questions.jsonl")]) == 1
    assert "error: kind `rumour`: is unknown\n  next: known: counterfactual, " in capsys.readouterr().err
    assert not (study / "questions.jsonl").exists()


def test_the_shard_that_the_help_shows_can_be_read() -> None:
    [shown] = re.findall("`(.*)`", FLAGS["--shard"].help)
    assert str(Shard.parse(shown)) == shown


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


def test_a_figure_may_be_about_the_whole_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = config(tmp_path).model_dump(mode="json")
    (tmp_path / "config.yaml").write_text(json.dumps(values))
    asked = ["figures", "--config", str(tmp_path / "config.yaml"), "--figure", "scorecard", "--model"]
    # The study is known, and its table is not there yet; another model is not known.
    assert main([*asked, "study"]) == 1
    assert "scorecard.csv: no such file" in capsys.readouterr().err
    assert main([*asked, "nobody"]) == 1
    assert "model `nobody`: unknown" in capsys.readouterr().err


def test_an_optional_list_of_files_may_be_empty_and_a_required_one_not() -> None:
    read = parser(COMMANDS).parse_args
    command = ("scorecard", "--models", "a.json", "--out", "card.csv", "--truths")
    assert read((*command, "--detections", "a.csv")).truths == []
    with pytest.raises(SystemExit):
        read((*command, "--detections"))
