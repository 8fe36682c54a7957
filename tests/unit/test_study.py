import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steer.artifacts.facts import write_facts
from steer.config import ModelSettings
from steer.errors import SteerError
from steer.models import architectures
from steer.models.architectures import LAYOUTS
from steer.models.loading import load_checkpoint
from steer.models.study import checkpoint_files, open_checkpoint, open_study, set_threads
from tests.activation_sets import facts_of
from tests.tiny import save_checkpoint

Checkpoint = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def study(checkpoint: Checkpoint, tmp_path: Path) -> tuple[Path, Path, ModelSettings]:
    """A checkpoint of its own, its `model.json` and the settings that name it."""
    folder = Path(shutil.copytree(checkpoint("olmoe"), tmp_path / "checkpoint"))
    facts = replace(facts_of(load_checkpoint(folder)), files=checkpoint_files(folder))
    write_facts(tmp_path / "model.json", facts, {})
    return folder, tmp_path / "model.json", ModelSettings(path=str(folder))


def test_a_study_opens_the_checkpoint_that_its_facts_describe(
    study: tuple[Path, Path, ModelSettings],
) -> None:
    folder, facts_path, settings = study
    loaded, facts = open_study(facts_path, settings)
    assert (loaded.name, facts.path) == (str(folder), str(folder))
    assert loaded.sites.moe_layers == facts.moe_layers


def test_the_settings_decide_type_system_prompt_and_threads(
    study: tuple[Path, Path, ModelSettings],
) -> None:
    folder, _, _ = study
    settings = ModelSettings(path=str(folder), dtype="bfloat16", system_prompt="Be brief.", threads=1)
    torch.set_num_threads(2)
    loaded = open_checkpoint(folder, settings)
    assert loaded.model.dtype == torch.bfloat16
    assert "Be brief." in loaded.tokenizer.decode(loaded.encode("Hello"))
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
        lambda folder: save_checkpoint(folder, "olmoe", seed=1),
        lambda folder: (folder / "generation_config.json").unlink(),
        lambda folder: (folder / "added.txt").write_text("new"),
        shutil.rmtree,
    ],
    ids=["changed", "trained again", "removed", "added", "gone"],
)
def test_a_checkpoint_that_was_replaced_is_an_error(
    change: Callable[[Path], object], study: tuple[Path, Path, ModelSettings]
) -> None:
    folder, facts_path, settings = study
    change(folder)
    with pytest.raises(SteerError, match=rf"{folder}: its files are not those(.|\n)*remove {facts_path}"):
        open_study(facts_path, settings)


def test_a_checkpoint_is_proved_before_it_is_used(
    study: tuple[Path, Path, ModelSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, facts_path, settings = study
    wrong = replace(LAYOUTS["olmoe"], mlp_write="post_attention_layernorm")
    monkeypatch.setitem(architectures.LAYOUTS, "olmoe", wrong)
    with pytest.raises(SteerError, match="the load-time proof failed"):
        open_study(facts_path, settings)
    with pytest.raises(SteerError, match="the load-time proof failed"):
        open_checkpoint(folder, settings)


def test_the_files_of_a_checkpoint_are_told_by_name_and_content(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "same", "other")]
    for folder in folders:
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "a.json").write_text("four")
        (folder / "b").write_bytes(b"\0" * 100_000 + bytes([folder.name == "other"]))
    one, same, other = map(checkpoint_files, folders)
    assert one.keys() == {"b", "inner/a.json"}
    assert one == same
    assert one["inner/a.json"] == other["inner/a.json"]
    assert one["b"] != other["b"]


def test_without_a_number_of_threads_every_core_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    set_threads(None)
    assert torch.get_num_threads() == 3
