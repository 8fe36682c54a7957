"""Contrast the routing of two prompt sets, expert by expert.

Needs: the activations and the prompts of the contrast's two sets.
Makes: results/<model>/routing/<contrast>.csv, a row per layer and expert with intervals over prompts, and
<contrast>.json with the prompts of each side.
"""


rule routing:
    input:
        activations=get_sides("{model}/activations/{set}.h5"),
        prompts=get_sides("prompts/{set}.jsonl"),
    output:
        table="<results>/{model}/routing/{contrast}.csv",
        record="<results>/{model}/routing/{contrast}.json",
    log:
        "<logs>/routing/{model}/{contrast}.log",
    benchmark:
        "<benchmarks>/routing/{model}/{contrast}.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        trigger=trigger("routing", "contrast"),
    message:
        "Contrasting the routing of {wildcards.model} by {wildcards.contrast}"
    shell:
        "python -m steer routing"
        " --config {params.config:q}"
        " --contrast {wildcards.contrast:q}"
        " --activations {input.activations:q}"
        " --prompt-sets {input.prompts:q}"
        " --out {output.table:q} > {log:q} 2>&1"
