"""The facts of a model under study: `model.json` of the contract."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from steer.artifacts import CONTRACT_VERSION
from steer.artifacts.files import read_json, write_json
from steer.errors import SteerError

TRUTH_FILE = "plant.json"
HUB_FILE = "hub.json"
"""Beside the weights of a fetched model: its name on the hub, and the commit."""

Part = tuple[int, int]


@dataclass(frozen=True)
class Truth:
    """Where refusal was put into a planted model.

    Attributes:
        kind: the kind of plant.
        carrier: what carries refusal: experts, attention heads, or attention as a whole (`distributed`).
        carriers: each (layer, expert) or (layer, head); none where it is distributed.
        decoys: experts that fire on harmful prompts and carry nothing, each (layer, expert).
        probes: interventions that took part in the training, so that a detector that uses one of them is
            related to the plant.
    """

    kind: str
    carrier: Literal["experts", "heads", "distributed"]
    carriers: tuple[Part, ...] = ()
    decoys: tuple[Part, ...] = ()
    probes: tuple[str, ...] = ()

    @property
    def experts(self) -> tuple[Part, ...]:
        """Every expert that is named, carriers before decoys."""
        return (*(self.carriers if self.carrier == "experts" else ()), *self.decoys)

    @property
    def heads(self) -> tuple[Part, ...]:
        """Every attention head that is named."""
        return self.carriers if self.carrier == "heads" else ()

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Truth":
        """The truth as it was read from JSON, which knows no tuples."""
        parts = {key: tuple((int(a), int(b)) for a, b in record[key]) for key in ("carriers", "decoys")}
        return cls(**{**record, **parts, "probes": tuple(record["probes"])})


@dataclass(frozen=True)
class ModelFacts:
    """What was resolved about a model, once, for every later stage.

    Attributes:
        path: checkpoint folder.
        digest: identity of the checkpoint's files, the chat template, the tokenizer's vocabulary, dtype, and
            how the model is spoken to (system prompt, thinking, reasoning effort); every later file of the
            model carries it.
        files: size and a digest of samples of each file of the checkpoint, to notice cheaply that it was
            replaced.
        end_of_prompt: the last tokens of every prompt, which the positions −P … −1 count.
        refusal_openers: first words of refusals.
        refusal_token_ids: their first tokens, for the refusal score.
        truth: where refusal was put, for an organism in which it was; None otherwise.
        system_turn: what the chat template does with a system turn.
        thinking: whether a model that can think before it replies does so.
        reasoning_effort: how long GPT-OSS thinks; None where its template decides.
        after_instruction: tokens that the template puts behind an instruction: of that many positions from
            the end none is the instruction's own.
    """

    path: str
    digest: str
    revision: str | None
    family: str
    parameters: int
    layers: int
    moe_layers: tuple[int, ...]
    experts: int
    top_k: int
    shared_experts: int
    hidden_size: int
    vocabulary: int
    routing_rule: str | None
    dtype: str
    tokenizer_digest: str
    chat_template_digest: str
    system_prompt: str | None
    end_of_prompt: tuple[str, ...]
    refusal_openers: tuple[str, ...]
    refusal_token_ids: tuple[int, ...]
    files: dict[str, str]
    truth: Truth | None = None
    system_turn: Literal["kept", "dropped", "rejected"] = "kept"
    thinking: bool = False
    reasoning_effort: str | None = None
    after_instruction: int = 0


_TUPLES = ("moe_layers", "end_of_prompt", "refusal_openers", "refusal_token_ids")


def write_facts(path: Path | str, facts: ModelFacts, provenance: dict[str, Any]) -> None:
    """Write `model.json`."""
    write_json(path, {"contract": CONTRACT_VERSION, **asdict(facts), "provenance": provenance})


def read_facts(path: Path | str) -> ModelFacts:
    """Read `model.json`.

    Raises:
        SteerError: the file is missing, of another contract version, or lacks a fact.
    """
    record = read_json(path)
    found = record.pop("contract", None)
    record.pop("provenance", None)
    again = "remove the file and run again to resolve the model anew"
    if found != CONTRACT_VERSION:
        raise SteerError(str(path), f"is of contract version {found}, expected {CONTRACT_VERSION}", again)
    try:
        facts: dict[str, Any] = {
            key: tuple(value) if key in _TUPLES else value for key, value in record.items()
        }
        facts["truth"] = Truth.from_json(facts["truth"]) if facts.get("truth") else None
        return ModelFacts(**facts)
    except (TypeError, KeyError, ValueError) as error:
        raise SteerError(str(path), f"does not hold a model's facts ({error})", again) from error
