"""Draw the figures and pages of the report, one rule each, so that restyling one redraws one.

Needs: scores.csv, the tables of selection, directions, activations and replies: each figure says which
(steer/figures/registry.py).
Makes: results/<model>/figures/<figure>.{svg,png,csv} or .{html,csv}, with provenance.
"""


def get_figure_outputs(figure):
    """The files of a figure; what a reader looks at is marked for the report."""
    facts = index.FIGURES[figure]
    labels = {"figure": facts.title, "model": "{model}"}
    shown = {
        "caption": f"../report/{figure}.rst",
        "category": facts.category,
        "labels": labels,
    }
    outputs = []
    for path in registry.outputs_of(figure, settings, "{model}"):
        marked = report(path, **shown) if path.endswith((".svg", ".html")) else path
        outputs.append(marked)
    return outputs


def get_figure_inputs(figure):
    """The files that a figure reads."""
    return [
        path
        for paths in registry.paths_of(figure, settings, "{model}").values()
        for path in paths
    ]


def figure_trigger(figure):
    """What redraws a figure: a digest of its code and of the settings it reads."""
    return lambda wildcards: registry.trigger(figure, settings, wildcards.model)


for figure in registry.figures_of(settings):

    rule:
        name:
            f"figure_{figure}"
        input:
            get_figure_inputs(figure),
        output:
            get_figure_outputs(figure),
        log:
            f"<logs>/figures/{{model}}/{figure}.log",
        benchmark:
            f"<benchmarks>/figures/{{model}}/{figure}.tsv"
        conda:
            "../../envs/steer.yaml"
        params:
            config=SETTINGS,
            figure=figure,
            trigger=figure_trigger(figure),
        message:
            "Drawing {params.figure} of {wildcards.model}"
        shell:
            "python -m steer figures"
            " --config {params.config:q}"
            " --model {wildcards.model:q}"
            " --figure {params.figure:q} > {log:q} 2>&1"
