# What the flow as a whole asks for: the last files of every branch.


def with_experts():
    """Models that have experts."""
    return [name for name, model in settings.models.items() if model.has_experts]


def get_figures(wildcards):
    """Every file of every figure of every model."""
    return [
        path
        for figure in registry.figures_of(settings)
        for model in registry.models_of(figure, settings)
        for path in registry.outputs_of(figure, settings, model)
    ]


def get_routing(wildcards):
    """Every routing table of every model that has experts, and how they sort and reroute the experts."""
    sorted_by = {settings.routing.recognise, settings.routing.control}
    tables = [
        *settings.contrasts,
        *(["experts"] if sorted_by <= {*settings.contrasts} else []),
    ]
    rerouted = settings.selection.rerouting.ranking in settings.contrasts
    return [
        f"{settings.results}/{model}/{file}"
        for model in with_experts()
        for file in [
            *(f"routing/{table}.csv" for table in tables),
            *(["selection/rerouting.csv"] if rerouted else []),
            *(["routing/pairing.csv"] if settings.paired else []),
        ]
    ]


def get_detections(wildcards):
    """The table of detectors of every model that has experts; they look for refusal alone."""
    if settings.behaviour != "refusal":
        return []
    return [f"{settings.results}/{model}/detection.csv" for model in with_experts()]


def get_decompositions(wildcards):
    """The tables of the decomposition of every model, where there is a refusal direction to take apart."""
    if settings.behaviour != "refusal":
        return []
    return [
        f"{settings.results}/{model}/decomposition/{name}.csv"
        for model in settings.models
        for name in ("writes", "experts", "cosines")
    ]


def get_scorecard(wildcards):
    """The comparison of detectors with the truth, where there is one."""
    return (
        [f"{settings.results}/scorecard.csv"]
        if any(model.is_known for model in settings.models.values())
        else []
    )


def get_truths(wildcards):
    """The causal check of every planted model."""
    planted = [name for name, model in settings.models.items() if model.is_planted]
    return [f"{settings.results}/{name}/truth.csv" for name in planted]


def get_fluency(wildcards):
    """The table of grades of every model, where a judge gives grades."""
    graded = settings.models if settings.grading_judges else []
    return [f"{settings.results}/{name}/fluency.csv" for name in graded]


def get_agreement(wildcards):
    """Every judge against the labelled replies, and the rates of every model corrected by one set of them."""
    if not settings.labelled:
        return []
    corrected = settings.models if settings.agreement.correct_by else []
    return [
        *(
            f"{settings.results}/judges/{judge}/labelled.csv"
            for judge in settings.measured_judges
        ),
        *(f"{settings.results}/{model}/corrected.csv" for model in corrected),
    ]


def get_capability(wildcards):
    """The scores of every model on tasks and on harmless text, where there are some."""
    measured = {
        "capability": settings.capable_arms,
        "perplexity": settings.perplexity.sets,
    }
    return [
        f"{settings.results}/{name}/{table}.csv"
        for table, wanted in measured.items()
        for name in (settings.models if wanted else [])
    ]
