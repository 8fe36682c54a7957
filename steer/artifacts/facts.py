"""The facts of a model under study: `model.json` of the contract."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from steer.artifacts import CONTRACT_VERSION
from steer.artifacts.files import read_json, write_json
from steer.errors import SteerError


@dataclass(frozen=True)
class ModelFacts:
    """What was resolved about a model, once, for every later stage.

    Attributes:
        path: checkpoint folder.
        digest: identity of weights, tokenizer, template, system prompt and dtype; every later file of
            the model carries it.
        files: size and a digest of samples of each file of the checkpoint, to notice cheaply that it was
            replaced.
        end_of_prompt: the last tokens of every prompt, which the positions −P … −1 count.
        refusal_openers: first words of refusals.
        refusal_token_ids: their first tokens, for the refusal score.
        planted: where refusal was put, for an organism in which it was; None otherwise.
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
    planted: Any = None


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
        return ModelFacts(**facts)
    except TypeError as error:
        raise SteerError(str(path), f"does not hold a model's facts ({error})", again) from error
