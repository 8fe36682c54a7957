"""Estimate the directions of refusal and of every expert, as differences of class means.

Needs: the activations of the contrast's two sets; for experts the checkpoint as well.
Makes: results/<model>/directions/refusal.safetensors, and refusal.json with the prompts of each class;
experts.safetensors, for a model that has experts and an arm that asks for them.
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


rule expert_directions:
    input:
        facts="<results>/{model}/model.json",
        activations=get_contrast("<results>/{model}/activations/{set}.h5"),
        record="<results>/{model}/directions/refusal.json",
    output:
        "<results>/{model}/directions/experts.safetensors",
    log:
        "<logs>/expert_directions/{model}.log",
    benchmark:
        "<benchmarks>/expert_directions/{model}.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        trigger=trigger("expert_directions", "model"),
    message:
        "Estimating the direction of every expert of {wildcards.model}"
    shell:
        "python -m steer expert_directions"
        " --config {params.config:q}"
        " --model {wildcards.model:q}"
        " --facts {input.facts:q}"
        " --activations {input.activations:q}"
        " --record {input.record:q}"
        " --out {output:q} > {log:q} 2>&1"
