"""How interventions are chosen, all on `val`."""

from typing import Literal

from pydantic import Field

from steer.config.base import Name, Scope, Settings, Share


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


class RerouteSettings(Settings):
    """Choice of the number of rerouted experts (SteerMoE, arXiv 2509.09660), by judged generation."""

    ranking: Name = Field(
        "prompt", description="Contrast whose risk differences rank the experts; side 1 is what is refused."
    )
    suppress_on: Name | None = Field(
        None,
        description="Set that suppressing is tried on, which shows the behaviour unsteered;"
        " `contrast.harmful` when left out.",
    )
    induce_on: Name | None = Field(
        None, description="Set that inducing is tried on; `contrast.harmless` when left out."
    )
    control: Name | None = Field(
        None,
        description="Set that is to be left alone, which the KL is measured on; when left out, each"
        " polarity is to leave alone what the other is tried on.",
    )
    activated: tuple[int, ...] = Field((0, 1, 2, 5), description="Numbers of activated experts tried.")
    deactivated: tuple[int, ...] = Field(
        (0, 1, 2, 5, 10), description="Numbers of deactivated experts tried."
    )
    prompts: int = Field(32, ge=1, description="Prompts of `val` per class that are answered and judged.")
    max_new_tokens: int = Field(40, ge=1, description="Length of a trial reply, in tokens.")
    judge: Name = Field("truth", description="Judge of the trial replies.")
    non_response: Share = Field(0.1, description="Largest share of incoherent replies of what is chosen.")
    kl_threshold: float = Field(1.0, gt=0, description="Largest KL on what is to be left alone, nats.")


class ExpertSelectionSettings(Settings):
    """Choice of experts, position and coefficient after arXiv 2606.04160, in three stages on `val`.

    Replies are judged by the judge of `strength`.
    """

    estimated: int = Field(
        24, ge=1, description="Places, the best by first-order estimate, that are scored exactly."
    )
    spread: int = Field(
        8, ge=0, description="Further places, spread evenly over the rest of that ranking, to judge it by."
    )
    coefficients: tuple[float, ...] = Field(
        (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0),
        description="Multiples of an expert's direction that are tried.",
    )
    kl_threshold: float = Field(
        2.0,
        gt=0,
        description="Largest KL, nats, on the prompts that are to be left alone: harmless ones when refusal"
        " is suppressed, harmful ones when it is induced.",
    )
    share: Share = Field(0.025, description="Share of the scored candidates that are judged by generation.")
    judged: int = Field(15, ge=1, description="Fewest candidates that are judged by generation.")
    scopes: tuple[Literal["all", "prompt"], ...] = Field(
        ("prompt", "all"),
        min_length=1,
        description="Token scopes tried: by all candidates the first, by the best place the others too.",
    )
    refinements: int = Field(
        2,
        ge=0,
        description="Times that the coefficients next to the best judged one, or halfway to them where they"
        " are judged already, are judged as well.",
    )
    prompts: int = Field(32, ge=1, description="Prompts of `val` per class that every stage uses.")
    max_new_tokens: int = Field(40, ge=1, description="Length of a trial reply, in tokens.")


class SelectionSettings(Settings):
    """The methods by which an intervention is chosen, all on `val`."""

    arditi: ArditiSettings = Field(
        ArditiSettings(), description="Bypass, induce and KL scores of each direction."
    )
    cosmic: CosmicSettings = Field(CosmicSettings(), description="Cosine scores inside the model.")
    strength: StrengthSettings = Field(StrengthSettings(), description="Judged trial generations.")
    rerouting: RerouteSettings = Field(RerouteSettings(), description="How many experts are rerouted.")
    experts: ExpertSelectionSettings = Field(
        ExpertSelectionSettings(), description="Estimates, exact scores and judged trials of experts."
    )
