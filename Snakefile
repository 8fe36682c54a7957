from pathlib import Path

from snakemake.utils import min_version

from steer.config import (
    check_removals,
    laid_over,
    merge,
    parse as parse_settings,
    read_settings,
)

# Path variables, which name the folder of the results once, came with 9.12.
min_version("9.12")


configfile: "config.yaml"


# An override may leave out what an earlier one added, which the merged settings no longer tell.
check_removals(
    laid_over("config.yaml", *workflow.overwrite_configfiles),
    dict(workflow.config_settings.config),
)
# Snakemake puts what overrides add before what it is added to; tables and figures follow the order here.
default = read_settings(Path("config.yaml"))
settings = parse_settings(merge(default, config))
# Captions name settings that config.yaml leaves at their defaults.
config.update(settings.model_dump(mode="json"))


pathvars:
    results=settings.results,


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/targets.smk"
include: "workflow/rules/download.smk"
include: "workflow/rules/weights.smk"
include: "workflow/rules/prompts.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/activations.smk"
include: "workflow/rules/directions.smk"
include: "workflow/rules/routing.smk"
include: "workflow/rules/detection.smk"
include: "workflow/rules/decomposition.smk"
include: "workflow/rules/truth.smk"
include: "workflow/rules/selection.smk"
include: "workflow/rules/generation.smk"
include: "workflow/rules/judging.smk"
include: "workflow/rules/scores.smk"
include: "workflow/rules/agreement.smk"
include: "workflow/rules/capability.smk"
include: "workflow/rules/reproduction.smk"
include: "workflow/rules/figures.smk"


# Nodes of a cluster often can't reach the network.
localrules:
    download,
    weights,


report: "workflow/report/workflow.rst"


rule all:
    default_target: True
    input:
        "<results>/overlap.csv",
        get_figures,
        get_routing,
        get_detections,
        get_decompositions,
        get_scorecard,
        get_truths,
        get_fluency,
        get_agreement,
        get_capability,
