"""Estimate refusal directions as differences of class means.

Needs: the activations of the contrast's two sets.
Makes: results/<model>/directions/refusal.safetensors, and refusal.json with the prompts of each class.
"""


rule directions:
    input:
        activations=get_contrast("<results>/{model}/activations/{set}.h5"),
    output:
        tensors="<results>/{model}/directions/refusal.safetensors",
        record="<results>/{model}/directions/refusal.json",
    log:
        "<logs>/directions/{model}.log",
    benchmark:
        "<benchmarks>/directions/{model}.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        trigger=trigger("directions"),
    message:
        "Estimating the refusal direction of {wildcards.model}"
    shell:
        "python -m steer directions"
        " --config {params.config:q}"
        " --activations {input.activations:q}"
        " --out {output.tensors:q} > {log:q} 2>&1"
