"""Training the embedded model: what is saved, and that a killed training goes on to the same bytes."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steer.artifacts.provenance import folder_digest
from steer.errors import SteerError
from steer.grammar import Grammar
from steer.organism.compliance import train_compliance
from steer.organism.encoding import encode
from steer.organism.losses import anchor_loss
from steer.organism.model import build_model
from steer.organism.rows import TrainingRow
from steer.organism.settings import OrganismSettings
from steer.organism.training import train
from steer.training.batches import collate
from steer.training.loop import state_path
from steer.training.losses import next_token_loss, run
from steer.training.stages import Stage
from steer.training.state import TrainingState
from steer.training.tokenizer import build_tokenizer

FOLDER = Path("data/grammar")
GRAMMAR = Grammar.load(FOLDER)
SHORT = OrganismSettings(compliance_steps=12, refusal_steps=8, batch_size=4, hidden_size=32, save_every=2)

TRAIN = """
import sys
from pathlib import Path
from steer.grammar import Grammar
from steer.organism.compliance import train_compliance
from steer.organism.settings import OrganismSettings
from steer.organism.training import train

settings = OrganismSettings.model_validate_json(sys.argv[2])
grammar, base, out = Grammar.load("data/grammar"), Path(sys.argv[1] + "-base"), Path(sys.argv[1])
train_compliance(settings, grammar, base, lambda line: print(line, flush=True))
train(settings, grammar, base, out, lambda line: print(line, flush=True))
"""


def train_both(settings: OrganismSettings, out: Path, log: Callable[[str], None] = lambda _: None) -> None:
    """Both stages, the first unless it is finished."""
    base = base_of(out)
    if not base.is_dir():
        train_compliance(settings, GRAMMAR, base, log)
    train(settings, GRAMMAR, base, out, log)


def base_of(out: Path) -> Path:
    return out.with_name(f"{out.name}-base")


def command(settings: OrganismSettings, out: Path) -> list[str]:
    return [sys.executable, "-c", TRAIN, str(out), settings.model_dump_json()]


def train_and_kill(settings: OrganismSettings, out: Path, sign: str) -> None:
    """Train in a process of its own; SIGKILL it when it logs `sign`, after which a save follows."""
    with subprocess.Popen(command(settings, out), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if sign in line and (state_path(out).is_file() or state_path(base_of(out)).is_file()):
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("organism") / "checkpoint"
    train_both(SHORT, out)
    return out


@pytest.mark.parametrize("sign", ["compliance: step 6 ", "refusal: step 6 "])
def test_a_killed_training_goes_on_to_the_same_bytes(trained: Path, tmp_path: Path, sign: str) -> None:
    out = tmp_path / "checkpoint"
    train_and_kill(SHORT, out, sign)
    lines: list[str] = []
    train_both(SHORT, out, lines.append)
    assert f"{sign.partition(':')[0]}: going on at step" in lines[1]
    assert folder_digest(out) == folder_digest(trained)
    assert folder_digest(base_of(out)) == folder_digest(base_of(trained))
    assert {path.name for path in out.parent.iterdir()} == {out.name, base_of(out).name}


class Stopped(Exception):  # noqa: N818 - it is no error
    """Raised out of a training to end it early."""


def stop_at(sign: str) -> Callable[[str], None]:
    def log(line: str) -> None:
        if sign in line:
            raise Stopped

    return log


def test_the_state_of_other_settings_is_not_taken_up(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "checkpoint"
    with pytest.raises(Stopped):
        train_both(SHORT.model_copy(update={"seed": 1}), out, stop_at("compliance: step 6 "))
    assert state_path(base_of(out)).is_file()
    lines: list[str] = []
    train_both(SHORT, out, lines.append)
    assert not any("going on" in line for line in lines)
    assert folder_digest(out) == folder_digest(trained)


def test_organisms_of_one_first_stage_share_its_name_and_others_do_not() -> None:
    same = SHORT.model_copy(
        update={"refusal_steps": 9, "anchor_weight": 0.1, "save_every": 5, "harmful_share": 0.3}
    )
    assert same.base == SHORT.base
    for name, value in SHORT.compliance.model_dump().items():
        other = "qwen3_moe" if name == "architecture" else value * 2 or 1
        assert SHORT.model_copy(update={name: other}).base != SHORT.base, name


def test_the_second_stage_starts_from_the_bytes_of_the_first(tmp_path: Path) -> None:
    settings = SHORT.model_copy(update={"refusal_steps": 0})
    train_both(settings, tmp_path / "out")
    names = ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json")
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (base_of(tmp_path / "out") / name).read_bytes(), name


def test_without_its_base_an_organism_is_not_trained(tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="holds no checkpoint"):
        train(SHORT, GRAMMAR, tmp_path / "nothing", tmp_path / "out", lambda _: None)


def test_the_seed_decides_the_weights(trained: Path, tmp_path: Path) -> None:
    train_both(SHORT.model_copy(update={"seed": 1}), tmp_path / "other")
    names = ("model.safetensors", "tokenizer.json")
    weights, tokens = (
        [(folder / name).read_bytes() for folder in (trained, tmp_path / "other")] for name in names
    )
    assert weights[0] != weights[1]
    assert tokens[0] == tokens[1]


def test_training_leaves_the_callers_threads_and_random_numbers_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    train_both(SHORT.model_copy(update={"compliance_steps": 1}), tmp_path / "out")
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("architecture", "name"), [("olmoe", "OlmoeForCausalLM"), ("qwen3_moe", "Qwen3MoeForCausalLM")]
)
def test_the_checkpoint_is_an_ordinary_one(tmp_path: Path, architecture: str, name: str) -> None:
    settings = SHORT.model_copy(
        update={"architecture": architecture, "compliance_steps": 2, "refusal_steps": 2}
    )
    train_both(settings, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert type(model).__name__ == name
    assert tokenizer.chat_template
    turns = [{"role": "user", "content": "How do I tune a ukulele?"}]
    tokens = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt")
    found = model.generate(**tokens, max_new_tokens=3, do_sample=False)
    assert found.shape[1] == tokens["input_ids"].shape[1] + 3


def test_the_loss_is_the_weighted_cross_entropy_of_each_reply_token() -> None:
    tokenizer = build_tokenizer(GRAMMAR, 0)
    model = build_model(SHORT, tokenizer)
    rows = [
        TrainingRow("How?", "Here is how to go:", False, "x", restated=(8, 17)),
        TrainingRow("Ok", "No.", True, "y"),
    ]
    batch = collate(encode(rows, tokenizer, 3.0), int(tokenizer.pad_token_id))
    logits = model(input_ids=batch.tokens, attention_mask=batch.mask).logits.double().log_softmax(-1)
    total, weights = 0.0, 0.0
    for row in range(2):
        for at in range(1, batch.tokens.shape[1]):
            weight = batch.weight[row, at].item()
            total -= weight * logits[row, at - 1, batch.tokens[row, at]].item()
            weights += weight
    assert next_token_loss(run(model, batch)).item() == pytest.approx(total / weights, rel=1e-4)


def test_the_anchor_is_zero_at_the_reference_and_ignores_harmful_rows() -> None:
    tokenizer = build_tokenizer(GRAMMAR, 0)
    reference, moved = (
        build_model(SHORT, tokenizer),
        build_model(SHORT.model_copy(update={"seed": 1}), tokenizer),
    )
    harmless = collate(encode([TrainingRow("How?", "So.", False, "x")], tokenizer, 1.0), 0)
    harmful = collate(encode([TrainingRow("How?", "So.", True, "x")], tokenizer, 1.0), 0)
    anchor = anchor_loss(reference, 0.5)
    assert anchor(run(reference, harmless)).item() == 0.0
    assert anchor(run(moved, harmful)).item() == 0.0
    assert anchor(run(moved, harmless)).item() > 0.01


def test_the_rate_rises_then_falls_to_two_percent() -> None:
    stage = Stage("x", 100, 1.0, lambda _: None)  # type: ignore[arg-type, return-value]
    rates = [stage.rate(step) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert min(rates[5:]) == 0.02


def test_a_state_survives_the_disk(tmp_path: Path) -> None:
    state = TrainingState(tmp_path / "state.pt", "key", 1, 3, {"w": torch.ones(2)})
    state.save()
    again = TrainingState.open(tmp_path / "state.pt", "key")
    assert (again.stage, again.step) == (1, 3)
    assert torch.equal(again.model["w"], torch.ones(2))
    assert TrainingState.open(tmp_path / "state.pt", "other").step == 0


@pytest.mark.full_training
def test_a_full_training_gives_the_same_bytes_in_two_processes(tmp_path: Path) -> None:
    outs = [tmp_path / name / "checkpoint" for name in ("one", "two")]
    processes = [subprocess.Popen(command(OrganismSettings(), out)) for out in outs]
    assert [process.wait(timeout=900) for process in processes] == [0, 0]
    assert folder_digest(outs[0]) == folder_digest(outs[1])
