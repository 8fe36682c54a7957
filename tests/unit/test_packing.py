"""Packed checkpoints: MXFP4 by hand, and every other format refused by its name."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from steer.errors import SteerError
from steer.models import packing
from steer.models.loading import load_checkpoint
from steer.models.proof import prove
from tests.tiny import EXPERTS, save_checkpoint

# E2M1: a sign, two bits of exponent, one of mantissa.
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
WIDTHS = {"gate_up_proj": (64, 32), "down_proj": (32, 32)}


def packed_checkpoint(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """A tiny GPT-OSS whose experts are packed as MXFP4, and what they are unpacked, by hand."""
    save_checkpoint(folder, "gpt_oss", intermediate_size=32, num_hidden_layers=2)
    weights, unpacked = load_file(folder / "model.safetensors"), {}
    rng = np.random.default_rng(0)
    for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
        rows, width = WIDTHS[name.rpartition(".")[2]]
        blocks = rng.integers(0, 256, (EXPERTS, rows, width // 32, 16), dtype=np.uint8)
        scales = rng.integers(122, 126, (EXPERTS, rows, width // 32), dtype=np.uint8)
        values = np.stack([FP4[blocks & 15], FP4[blocks >> 4]], axis=-1).reshape(*blocks.shape[:3], 32)
        values = (values * 2.0 ** (scales[..., None].astype(int) - 127)).reshape(EXPERTS, rows, width)
        unpacked[name] = torch.tensor(values).mT.float()
        del weights[name]
        weights |= {f"{name}_blocks": torch.tensor(blocks), f"{name}_scales": torch.tensor(scales)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    set_quantisation(folder, quant_method="mxfp4", modules_to_not_convert=["model.layers.*.self_attn"])
    return folder, unpacked


def set_quantisation(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": settings}))


def test_experts_packed_as_mxfp4_are_unpacked_and_proved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, unpacked = packed_checkpoint(tmp_path)
    with caplog.at_level(logging.WARNING):
        loaded = load_checkpoint(folder)
    state = loaded.model.state_dict()
    for name, expected in unpacked.items():
        assert torch.equal(state[name], expected), name
    prove(loaded)
    [said] = [record.message for record in caplog.records if "packed as MXFP4" in record.message]
    size = sum(parameter.numel() for parameter in loaded.model.parameters()) * 4
    assert f"unpacked to float32 the model takes {size / 2**30:.2f} GiB" in said


def test_packed_weights_that_do_not_fit_unpacked_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = packed_checkpoint(tmp_path)
    monkeypatch.setattr(packing, "memory", lambda _device: 1000)
    with pytest.raises(SteerError, match=r"unpacked to float32 .* and cpu has 0\.00(.|\n)*device: auto"):
        load_checkpoint(folder)


@pytest.mark.parametrize("method", ["bitsandbytes", "fp8", "gptq", "awq", "compressed-tensors"])
def test_other_formats_are_refused_by_name(tmp_path: Path, method: str) -> None:
    folder = save_checkpoint(tmp_path, "olmoe")
    set_quantisation(folder, quant_method=method)
    with pytest.raises(SteerError, match=f"quantised by `{method}`(.|\n)*use the checkpoint in bfloat16"):
        load_checkpoint(folder)
