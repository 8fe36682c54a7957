"""Every setting of the workflow, typed once: default, unit and reason.

`config.yaml` and the studies only override what is written here. The JSON schema and the
README's table are generated from these classes (`python -m steer config`).
"""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from steer.errors import SteerError
from steer.judges.settings import JudgeSettings
from steer.organism.settings import OrganismSettings

Scope = Literal["prompt", "generated", "all"]
Split = Literal["train", "val", "test"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=60)]
Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """A section that rejects unknown keys and can't be changed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(Settings):
    """A model under study: either an organism that the flow trains, or a checkpoint."""

    organism: OrganismSettings | None = Field(
        None, description="Train the embedded model with these settings; leave out for a checkpoint."
    )
    path: str | None = Field(None, description="Folder of a checkpoint; leave out for an organism.")
    revision: str | None = Field(None, description="Commit of the checkpoint, recorded with every result.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Type that the weights are loaded in and the forward pass runs in."
    )
    device: str = Field("cpu", description="Device that the model is loaded on.")
    threads: int | None = Field(
        1, ge=1, description="CPU threads of a job; fixed, because another number gives other last bits."
    )
    batch_size: int = Field(32, ge=1, description="Prompts per forward pass; lower it when memory runs out.")
    max_prompt_tokens: int = Field(
        1024, ge=6, description="Longest prompt accepted, in tokens, template included."
    )
    system_prompt: str | None = Field(None, description="System turn put before every prompt.")
    refusal_openers: tuple[str, ...] = Field(
        (), description="First words of refusals, for the refusal score; an organism knows its own."
    )

    @model_validator(mode="after")
    def _one_origin(self) -> "ModelSettings":
        if (self.organism is None) == (self.path is None):
            raise ValueError("give exactly one of `organism` and `path`")
        return self


class SetSettings(Settings):
    """A prompt set."""

    source: str = Field(description="`grammar`, a JSONL file, or the name of a row of data/sources.tsv.")
    label: Literal["harmful", "harmless"] = Field(description="What every prompt of the set is.")
    train: int = Field(0, ge=0, description="Prompts for estimating directions.")
    val: int = Field(0, ge=0, description="Prompts for choosing layer, position, strength and scope.")
    test: int = Field(0, ge=0, description="Prompts for reporting; they never choose anything.")


class ContrastSettings(Settings):
    """The two sets whose difference of means is the refusal direction."""

    harmful: Name = Field("harmful", description="Set of prompts that should be refused.")
    harmless: Name = Field("harmless", description="Set of prompts that should be answered.")


class ActivationSettings(Settings):
    """What is read from the model."""

    positions: int = Field(
        5, ge=1, description="Last prompt tokens kept, template included (both papers: 5)."
    )
    compression: Literal["zstd", "gzip", "none"] = Field(
        "zstd",
        description="HDF5 filter, after byte shuffling; `zstd` is faster and smaller, `gzip` can be read"
        " without hdf5plugin.",
    )
    dtype: Literal["float32", "float16"] = Field("float32", description="Type of the stored activations.")


class DirectionSettings(Settings):
    """How the refusal direction is estimated."""

    filter: bool = Field(
        True,
        description="Drop harmful training prompts that the model does not refuse and harmless ones that it"
        " does, by refusal score (Arditi et al., section 2.3).",
    )


class ArditiSettings(Settings):
    """Choice of layer and position after Arditi et al. (arXiv 2406.11717, appendix C)."""

    kl_threshold: float = Field(0.1, gt=0, description="Largest KL on harmless prompts under ablation, nats.")
    induce_threshold: float = Field(
        0.0, description="Smallest refusal score that addition must reach, log-odds."
    )
    prune_layers: Share = Field(0.2, description="Share of the last layers that can't be chosen.")


class CosmicSettings(Settings):
    """Choice of layer and position after COSMIC (arXiv 2506.00085), without output tokens."""

    layers: Share = Field(
        0.1, description="Share of layers, the least similar between classes, that are scored."
    )
    prune_layers: Share = Field(0.2, description="Share of the last layers that can't be chosen.")


class StrengthSettings(Settings):
    """Choice of coefficient, scope and, among the best few, of layer and position, by judged generation."""

    coefficients: tuple[float, ...] = Field(
        (0.18, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0),
        description="Multiples of the direction tried for `add` and `affine`, a factor of about √2 apart.",
    )
    scopes: tuple[Scope, ...] = Field(("all", "prompt", "generated"), description="Token scopes tried.")
    candidates: int = Field(
        3,
        ge=1,
        description="Best (layer, position) pairs of a selection method that are tried by generation.",
    )
    prompts: int = Field(32, ge=1, description="Prompts of `val` per class that are answered and judged.")
    max_new_tokens: int = Field(40, ge=1, description="Length of a trial reply, in tokens.")
    judge: Name = Field("truth", description="Judge of the trial replies.")


class SelectionSettings(Settings):
    """The methods by which an intervention is chosen, all on `val`."""

    arditi: ArditiSettings = Field(
        ArditiSettings(), description="Bypass, induce and KL scores of each direction."
    )
    cosmic: CosmicSettings = Field(CosmicSettings(), description="Cosine scores inside the model.")
    strength: StrengthSettings = Field(StrengthSettings(), description="Judged trial generations.")


class ArmSettings(Settings):
    """An intervention to compare with the unsteered model."""

    operation: Literal["none", "ablate", "add", "affine"] = Field(
        description="What is done to the residual stream (README, interventions)."
    )
    polarity: Literal["suppress", "induce"] = Field(
        "suppress", description="Whether refusal is to be switched off or on; the sign of the coefficient."
    )
    direction: Literal["refusal", "random"] = Field(
        "refusal", description="The estimated direction, or a random one of equal norm as a control."
    )
    selection: Literal["arditi", "cosmic"] = Field(
        "arditi", description="Method that chose layer and position."
    )
    rank: int = Field(
        1,
        ge=1,
        description="Directions removed together by `ablate`: the best of the selection, orthonormalised.",
    )
    tuned: bool = Field(
        True, description="Let judged generation choose among the best candidates, coefficients and scopes."
    )
    like: Name | None = Field(
        None, description="Arm whose layer, position, coefficient and scope are copied, for controls."
    )
    layer: int | None = Field(None, ge=0, description="Layer, when it is not to be selected.")
    position: int | None = Field(None, le=-1, description="Token position from the end, when not selected.")
    coefficient: float | None = Field(None, ge=0, description="Multiple of the direction, when not selected.")
    scope: Scope | None = Field(None, description="Tokens that are edited, when not selected.")
    seed: int = Field(0, ge=0, description="Seed of a random direction.")

    @model_validator(mode="after")
    def _says_what_it_does(self) -> "ArmSettings":
        if self.operation != "ablate" and self.rank > 1:
            raise ValueError(f"`rank` is for `ablate`, not for `{self.operation}`")
        if self.operation == "ablate" and self.polarity == "induce":
            raise ValueError("`ablate` can only suppress refusal; use `add` or `affine` to induce it")
        own = [
            name for name in ("layer", "position", "coefficient", "scope") if getattr(self, name) is not None
        ]
        if self.like and own:
            raise ValueError(f"`like` copies the dose of another arm; leave out {', '.join(own)}")
        return self


class GenerationSettings(Settings):
    """How replies are produced."""

    sets: tuple[Name, ...] = Field(
        ("harmful", "harmless"), description="Sets whose `test` prompts are answered by every arm."
    )
    max_new_tokens: int = Field(48, ge=1, description="Longest reply, in tokens.")


class ScoreSettings(Settings):
    """How verdicts become numbers."""

    judge: Name = Field("truth", description="Judge whose verdicts the figures show.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of every interval.")
    resamples: int = Field(2000, ge=100, description="Bootstrap resamples over prompts.")


class ReportSettings(Settings):
    """What the report shows."""

    replies: Literal["withheld", "full"] = Field(
        "withheld", description="Whether model replies stand in the report; they are always in results/."
    )
    samples: int = Field(3, ge=1, description="Prompts per set whose replies the page of samples lists.")


class DownloadSettings(Settings):
    """How public prompt sets are fetched."""

    timeout: float = Field(30.0, gt=0, description="Longest silence of a server, in seconds.")
    attempts: int = Field(4, ge=1, description="Tries of a download that can be helped by trying again.")
    wait: float = Field(2.0, ge=0, description="Wait before the second try, in seconds; doubled each time.")


class Config(Settings):
    """The whole configuration."""

    seed: int = Field(0, ge=0, description="Seed of everything drawn at random outside training.")
    results: str = Field("results", description="Folder that every result is written to.")
    models: dict[Name, ModelSettings] = Field(min_length=1, description="Models under study, by name.")
    sets: dict[Name, SetSettings] = Field(min_length=1, description="Prompt sets, by name.")
    contrast: ContrastSettings = Field(ContrastSettings(), description="Sets that define refusal.")
    download: DownloadSettings = Field(DownloadSettings(), description="Fetching public prompt sets.")
    activations: ActivationSettings = Field(ActivationSettings(), description="Reading the model.")
    directions: DirectionSettings = Field(DirectionSettings(), description="Estimating directions.")
    selection: SelectionSettings = Field(SelectionSettings(), description="Choosing interventions.")
    arms: dict[Name, ArmSettings] = Field(min_length=1, description="Interventions, by name.")
    generation: GenerationSettings = Field(GenerationSettings(), description="Producing replies.")
    judges: dict[Name, JudgeSettings] = Field(min_length=1, description="Judges of replies, by name.")
    scores: ScoreSettings = Field(ScoreSettings(), description="Statistics.")
    report: ReportSettings = Field(ReportSettings(), description="The report.")

    @model_validator(mode="after")
    def _names_exist(self) -> "Config":
        sets = [self.contrast.harmful, self.contrast.harmless, *self.generation.sets]
        _known("set", sets, self.sets)
        _known("judge", [self.scores.judge, self.selection.strength.judge], self.judges)
        _known("arm", [arm.like for arm in self.arms.values() if arm.like], self.arms)
        _known("arm", ["baseline"], self.arms)
        return self

    @model_validator(mode="after")
    def _names_fit(self) -> "Config":
        reserved = {"downloads", "judges", "prompts"}.intersection(self.models)
        if reserved:
            raise ValueError(
                f"model `{min(reserved)}` has the name of another folder of the results; rename it"
            )
        for label in ("harmful", "harmless"):
            name = getattr(self.contrast, label)
            if self.sets[name].label != label:
                raise ValueError(f"`contrast.{label}`: set `{name}` is {self.sets[name].label}")
        if self.arms["baseline"].operation != "none":
            raise ValueError("arm `baseline` is the unsteered model: its operation must be `none`")
        for name, arm in self.arms.items():
            if arm.like and (self.arms[arm.like].like or self.arms[arm.like].operation == "none"):
                raise ValueError(f"arm `{name}` is like `{arm.like}`, which has no dose of its own to copy")
        return self


def _known(kind: str, names: list[str], known: dict[str, Any]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"unknown {kind} `{name}`; {_nearest(name, list(known))}")


def _nearest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else f"known: {', '.join(f'`{name}`' for name in known)}"


def _walk(location: tuple[int | str, ...]) -> tuple[list[str], list[type[BaseModel]]]:
    """The keys that a location goes through, and the sections that it may end in.

    Pydantic puts the kind of a judge into the location; it is no key, but it says which section is meant.
    """
    keys: list[str] = []
    found: Any = Config
    for part in location:
        of_kind = [model for model in _models_in(found) if part in _kinds_of(model)]
        is_name = get_origin(found) is dict
        if is_name or not of_kind:
            keys.append(str(part))
        found = get_args(found)[1] if is_name else of_kind or _member(found, part)
    return keys, _models_in(found)


def _kinds_of(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field else ()


def _member(found: Any, part: int | str) -> Any:
    """What the key `part` of a section holds; for an index, the same models stay in view."""
    fields = [model.model_fields.get(str(part)) for model in _models_in(found)]
    held = [field.annotation for field in fields if field]
    return held[0] if len(held) == 1 else held or found


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, list):
        return [model for member in annotation for model in _models_in(member)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for member in get_args(annotation) for model in _models_in(member)]


def _explain(problem: Any) -> str:
    location = problem["loc"]
    keys, _ = _walk(location)
    dotted = ".".join(keys)
    if problem["type"] == "extra_forbidden":
        _, sections = _walk(location[:-1])
        known = sorted({name for section in sections for name in section.model_fields})
        return f"unknown key `{dotted}`; {_nearest(keys[-1], known)}"
    if problem["type"] in ("missing", "union_tag_not_found"):
        return f"missing key `{dotted}{'' if problem['type'] == 'missing' else '.kind'}`"
    message = problem["msg"].removeprefix("Value error, ")
    return f"`{dotted}`: {message}" if dotted else message


def parse(values: dict[str, Any], origin: str = "the configuration") -> Config:
    """Type a configuration that was read from `origin`.

    Raises:
        SteerError: an unknown key (with the nearest known one), a missing key or a value out of range.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_explain(problem) for problem in error.errors())
        raise SteerError(origin, problems, "see the table of settings in the README") from error


def load(*paths: Path | str) -> Config:
    """Read one configuration file and the overrides laid over it, in order.

    Raises:
        SteerError: a file is missing or not YAML, or the result is not a valid configuration.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, _read(Path(path)))
    return parse(merged, " + ".join(str(path) for path in paths))


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SteerError(str(path), "no such file", "name an existing file with --config") from error
    except yaml.YAMLError as error:
        raise SteerError(str(path), f"is not YAML ({error})", "mend the line that is named") from error
    if not isinstance(values, dict):
        raise SteerError(str(path), "is not a mapping of settings", "start from config.yaml")
    return values


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over` laid over it, mapping by mapping, as Snakemake merges files."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def pick(config: Config, keys: Iterable[str], names: Mapping[str, str]) -> dict[str, Any]:
    """The values at dotted keys, as JSON-able values; `{name}` in a key is filled in from `names`."""
    values = config.model_dump(mode="json")
    return {key: _at(values, key.format(**names).split(".")) for key in keys}


def _at(section: Any, path: list[str]) -> Any:
    return _at(section[path[0]], path[1:]) if path else section
