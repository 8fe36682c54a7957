"""Share out the refusal direction among what writes it, and compare directions with each other.

Needs: the directions of a model, and its checkpoint for the rows of its routers.
Makes: results/<model>/decomposition/writes.csv, experts.csv and cosines.csv.
"""


rule decomposition:
    input:
        facts="<results>/{model}/model.json",
        directions="<results>/{model}/directions/refusal.safetensors",
        experts=get_expert_directions,
    output:
        expand(
            "<results>/{{model}}/decomposition/{name}{suffix}",
            name=["writes", "experts", "cosines"],
            suffix=[".csv", ".meta.json"],
        ),
    log:
        "<logs>/decomposition/{model}.log",
    benchmark:
        "<benchmarks>/decomposition/{model}.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        experts=lambda wildcards, input: (
            ["--experts", input.experts] if input.get("experts") else []
        ),
        out=subpath(output[0], parent=True),
        trigger=trigger("decomposition", "model"),
    message:
        "Decomposing the refusal direction of {wildcards.model}"
    shell:
        "python -m steer decomposition"
        " --config {params.config:q}"
        " --model {wildcards.model:q}"
        " --facts {input.facts:q}"
        " --directions {input.directions:q}"
        " {params.experts:q}"
        " --out {params.out:q} > {log:q} 2>&1"
