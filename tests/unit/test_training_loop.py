import os
from pathlib import Path

import pytest

from steer.training.loop import save_checkpoint
from tests.tiny import build_model, build_tokenizer


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664), (0o077, 0o600)])
def test_a_checkpoint_can_be_read_by_those_whom_the_umask_allows(
    tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        save_checkpoint(build_model("llama"), build_tokenizer(), tmp_path / "checkpoint")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "checkpoint").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= modes.keys()
    assert set(modes.values()) == {mode}, modes
