"""Models on hubs whose architecture is known without asking: the rows of data/models.yaml.

A model of a study is a folder on this machine, or the name that a hub knows it by (`owner/name`). Plans and
the choice of rules need to know what it is before anything is downloaded.
"""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from steer.artifacts.tables import read_named_rows
from steer.errors import SteerError

TABLE = Path(__file__).parents[1] / "data" / "models.yaml"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# How a configuration says how many routed experts a layer has, by family.
EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts")
COUNTS = (
    *EXPERT_KEYS,
    "num_hidden_layers",
    "num_experts_per_tok",
    "first_k_dense_replace",
    "decoder_sparse_step",
)

Revision = Annotated[str, Field(pattern=r"^[\w./-]+$")]
Device = Annotated[str, Field(pattern=r"^(auto|(cpu|cuda|mps|xpu|hpu|npu)(:\d+)?)$")]
"""Where a model is loaded; `auto` spreads it over all GPUs, memory and disk."""
Stored = Literal["float32", "bfloat16", "float16", "float8", "mxfp4"]


class KnownModel(BaseModel):
    """What is published about a model.

    Attributes:
        source: where the facts stand.
        parameters: total, in billions, as published.
        stored: type of the published weights.
        gated: whether a person must accept its terms first.
        same: another entry whose architecture it shares.
        config: the facts of its config.json that decide sizes, `model_type` among them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(min_length=1)
    parameters: float = Field(gt=0)
    stored: Stored
    gated: bool = False
    same: str | None = None
    config: dict[str, Any] = {}


@dataclass(frozen=True)
class HubModel:
    """A model on a hub.

    Attributes:
        id: `owner/name`.
        revision: commit, tag or branch; None for the newest at the first download.
    """

    id: str
    revision: str | None = None

    @property
    def key(self) -> str:
        """What it is called in the lock file."""
        return f"{self.id}@{self.revision}" if self.revision else self.id

    @property
    def folder(self) -> str:
        """What the folder of its weights is called."""
        return self.key.replace("/", "--")


def hub_id(path: str | None) -> str | None:
    """The name on a hub that a model's `path` is; None where it is a folder, or looks like one."""
    if path is None or Path(path).is_dir() or not HUB_ID.fullmatch(path):
        return None
    return path


@lru_cache
def known_models(table: Path = TABLE) -> dict[str, KnownModel]:
    """Every row, by name on the hub, with the architecture of those that share another's.

    Raises:
        SteerError: the table is missing, or a row is malformed.
    """
    found = read_named_rows(table, KnownModel)
    for name, row in found.items():
        if row.same and row.same not in found:
            raise SteerError(
                str(table), f"`{name}` is the same as `{row.same}`, which has no row", "mend the row"
            )
    return {
        name: row.model_copy(update={"config": found[row.same].config}) if row.same else row
        for name, row in found.items()
    }


def architecture(path: str) -> dict[str, Any] | None:
    """The configuration of a model by the folder or the hub's name that it is; None where it is not known."""
    facts = Path(path, "config.json")
    if facts.is_file():
        try:
            told: dict[str, Any] = json.loads(facts.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SteerError(str(facts), f"is no JSON ({error})", "fetch the model again") from error
        _check_counts(facts, told)
        return told
    row = known_models().get(path)
    return row.config if row else None


def _check_counts(path: Path, told: Any) -> None:
    wrong = [
        key for key in COUNTS if isinstance(told, dict) and type(told.get(key, 0)) not in (int, NoneType)
    ]
    if isinstance(told, dict) and not _are_layers(told.get("mlp_only_layers")):
        cause = f"`mlp_only_layers` is {told['mlp_only_layers']!r}, no list of layers"
        raise SteerError(str(path), cause, "fetch the model's own config.json again")
    if wrong or not isinstance(told, dict):
        cause = f"`{wrong[0]}` is {told[wrong[0]]!r}, no whole number" if wrong else "holds no settings"
        raise SteerError(str(path), cause, "fetch the model's own config.json again")


def _are_layers(told: Any) -> bool:
    return told is None or (isinstance(told, list) and all(type(layer) is int for layer in told))


def expert_count(config: dict[str, Any]) -> int:
    """Routed experts of a layer, as a configuration tells; 0 for a dense model."""
    return next((int(config[key]) for key in EXPERT_KEYS if config.get(key)), 0)


def layers_with_experts(config: dict[str, Any], layers: int) -> tuple[int, ...]:
    """Which of its layers have experts, as a configuration tells: all but those that it calls dense."""
    if not expert_count(config):
        return ()
    dense = {*range(int(config.get("first_k_dense_replace") or 0)), *(config.get("mlp_only_layers") or ())}
    step = int(config.get("decoder_sparse_step") or 1)
    return tuple(layer for layer in range(layers) if layer not in dense and (layer + 1) % step == 0)
