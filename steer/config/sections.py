"""The sections of the configuration."""

from pydantic import Field

from steer.config.agreement import AgreementSettings, LabelledSettings
from steer.config.arms import ArmSettings
from steer.config.base import Name, Settings
from steer.config.capability import CapabilitySettings, PerplexitySettings
from steer.config.models import ModelSettings
from steer.config.prompts import (
    ContrastSettings,
    DownloadSettings,
    GrammarSettings,
    OverlapSettings,
    SetSettings,
)
from steer.config.routing import PairingSettings, RoutingContrast, RoutingSettings
from steer.config.selection import SelectionSettings
from steer.config.stages import (
    ActivationSettings,
    DetectionSettings,
    DirectionSettings,
    GenerationSettings,
    ReportSettings,
    ReproductionSettings,
    ScoreSettings,
    ShardSettings,
    TruthSettings,
)
from steer.judges.behaviours import BehaviourName
from steer.judges.settings import JudgeSettings


class Sections(Settings):
    """Every section, with its default where it has one."""

    seed: int = Field(0, ge=0, description="Seed of everything drawn at random outside training.")
    behaviour: BehaviourName = Field(
        "refusal",
        description="What is looked for and steered: refusal, or `faithfulness` to documents.",
    )
    results: str = Field("results", description="Folder that every result is written to.")
    lock: str = Field(
        "models.lock.json",
        description="File that keeps the commits and digests of fetched models; commit it with the study.",
    )
    models: dict[Name, ModelSettings] = Field(min_length=1, description="Models under study, by name.")
    sets: dict[Name, SetSettings] = Field(min_length=1, description="Prompt sets, by name.")
    grammar: GrammarSettings = Field(GrammarSettings(), description="Drawing sets from the grammar.")
    contrast: ContrastSettings = Field(ContrastSettings(), description="Sets that define refusal.")
    download: DownloadSettings = Field(DownloadSettings(), description="Fetching public prompt sets.")
    overlap: OverlapSettings = Field(OverlapSettings(), description="Prompts that say the same.")
    activations: ActivationSettings = Field(ActivationSettings(), description="Reading the model.")
    shards: ShardSettings = Field(
        ShardSettings(), description="Sharing out large sets among jobs, for clusters; each loads the model."
    )
    directions: DirectionSettings = Field(DirectionSettings(), description="Estimating directions.")
    contrasts: dict[Name, RoutingContrast] = Field(
        {},
        description="Pairs of sets whose routing is compared, by name; each makes `routing/<name>.csv`.",
    )
    routing: RoutingSettings = Field(RoutingSettings(), description="Judging those contrasts.")
    pairing: PairingSettings = Field(PairingSettings(), description="What the making of pairs does.")
    detection: DetectionSettings = Field(DetectionSettings(), description="Looking for carriers.")
    selection: SelectionSettings = Field(SelectionSettings(), description="Choosing interventions.")
    arms: dict[Name, ArmSettings] = Field(min_length=1, description="Interventions, by name.")
    generation: GenerationSettings = Field(GenerationSettings(), description="Producing replies.")
    judges: dict[Name, JudgeSettings] = Field(min_length=1, description="Judges of replies, by name.")
    labelled: dict[Name, LabelledSettings] = Field({}, description="Replies whose truth is known, by name.")
    agreement: AgreementSettings = Field(AgreementSettings(), description="Measuring judges on them.")
    scores: ScoreSettings = Field(ScoreSettings(), description="Statistics.")
    perplexity: PerplexitySettings = Field(
        PerplexitySettings(), description="What steering does to the reading of harmless text."
    )
    capability: CapabilitySettings = Field(
        CapabilitySettings(), description="What the steered model can still do."
    )
    truth: TruthSettings = Field(TruthSettings(), description="Checking planted models.")
    reproduction: ReproductionSettings = Field(
        ReproductionSettings(), description="Laying results beside published ones."
    )
    report: ReportSettings = Field(ReportSettings(), description="The report.")
