"""The command `plan`: what it prints without weights or network, and what can't be planned."""

import re
from pathlib import Path

import pytest
import yaml

from steer.cli import main
from steer.config import load
from steer.errors import SteerError
from steer.plan.anatomy import anatomy_of
from steer.plan.report import Rates, plan
from steer.plan.sources import anatomy_at
from tests.unit.test_plan_olmoe import OLMOE

ROOT = Path(__file__).parents[2]


def test_the_plan_of_a_study_is_printed_without_weights_or_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump({"models": {"olmoe": {"path": OLMOE, "dtype": "bfloat16"}}}))
    assert main(["plan", str(study), "--gpu", "rtx4090-24gb", "--price-in", "1"]) == 0
    said = capsys.readouterr().out
    assert "6,919,161,856" in said
    assert "1 of rtx4090-24gb" in said
    assert "organism: embedded" in said
    assert "0 bytes" not in said


def test_a_study_of_models_that_read_documents_is_planned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["plan", "faithfulness"]) == 0
    said = capsys.readouterr().out
    assert "openbook: trains" in said
    assert not re.search("organism:|upcycle:|to fetch", said)


def test_what_can_not_be_planned_is_named() -> None:
    with pytest.raises(SteerError, match=r"model `mine`: the architecture of some/one is not known"):
        anatomy_at("mine", "some/one")
    with pytest.raises(SteerError, match=r"GPU `abacus`: is unknown"):
        plan(load(ROOT / "config.yaml"), {}, Rates(gpu="abacus"))
    with pytest.raises(SteerError, match=r"model `mine`: the installed transformers makes no model"):
        anatomy_of({"model_type": "no_such_family"}, "mine")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("no-such-study",), "is no file"),
        (("planted", "--prompt-tokens", "many"), "`many` is no number"),
        (("planted", "--price-in", "-1"), "-1 can't be"),
    ],
)
def test_a_wrong_question_for_a_plan_is_an_error(
    flags: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["plan", *flags]) == 1
    assert said in capsys.readouterr().err
