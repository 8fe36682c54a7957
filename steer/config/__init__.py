"""Every setting of the workflow, typed once: default, unit and reason.

`config.yaml` and the studies only override what is written here. The JSON schema and the
README's table are generated from these classes (`python -m steer config`).
"""

from steer.config.arms import ArmSettings, parse_arm
from steer.config.arms_experts import (
    BiasArm,
    ExpertDirectionArm,
    ExpertGateArm,
    RerouteArm,
    RouterArm,
)
from steer.config.arms_stream import BaselineArm, ReplayArm, ResidualArm, SwapArm
from steer.config.base import Name, Scope, Settings, Share, Split
from steer.config.capability import CapabilitySettings, PerplexitySettings, TaskSettings
from steer.config.files import check_removals, laid_over, load, merge, pick, read_settings
from steer.config.models import ModelSettings
from steer.config.parsing import parse
from steer.config.prompts import (
    ContrastSettings,
    DownloadSettings,
    GrammarSettings,
    OverlapSettings,
    SetSettings,
)
from steer.config.root import Config
from steer.config.routing import PairingSettings, RoutingContrast, RoutingSettings
from steer.config.selection import (
    ArditiSettings,
    CosmicSettings,
    ExpertSelectionSettings,
    RerouteSettings,
    SelectionSettings,
    StrengthSettings,
)
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

__all__ = [
    "ActivationSettings",
    "ArditiSettings",
    "ArmSettings",
    "BaselineArm",
    "BiasArm",
    "CapabilitySettings",
    "Config",
    "ContrastSettings",
    "CosmicSettings",
    "DetectionSettings",
    "DirectionSettings",
    "DownloadSettings",
    "ExpertDirectionArm",
    "ExpertGateArm",
    "ExpertSelectionSettings",
    "GenerationSettings",
    "GrammarSettings",
    "ModelSettings",
    "Name",
    "OverlapSettings",
    "PairingSettings",
    "PerplexitySettings",
    "ReplayArm",
    "ReportSettings",
    "ReproductionSettings",
    "RerouteArm",
    "RerouteSettings",
    "ResidualArm",
    "RouterArm",
    "RoutingContrast",
    "RoutingSettings",
    "Scope",
    "ScoreSettings",
    "SelectionSettings",
    "SetSettings",
    "Settings",
    "ShardSettings",
    "Share",
    "Split",
    "StrengthSettings",
    "SwapArm",
    "TaskSettings",
    "TruthSettings",
    "check_removals",
    "laid_over",
    "load",
    "merge",
    "parse",
    "parse_arm",
    "pick",
    "read_settings",
]
