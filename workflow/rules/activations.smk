"""Record what flows through a model at the last tokens of every prompt.

Needs: results/<model>/model.json and results/prompts/<set>.jsonl.
Makes: results/<model>/activations/<set>.h5, residuals, component outputs and routing per prompt.
"""


rule activations:
    input:
        facts="<results>/{model}/model.json",
        prompts="<results>/prompts/{set}.jsonl",
    output:
        "<results>/{model}/activations/{set}.h5",
    log:
        "<logs>/activations/{model}/{set}.log",
    benchmark:
        "<benchmarks>/activations/{model}/{set}.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        trigger=trigger("activations", "model"),
    message:
        "Recording {wildcards.model} on {wildcards.set}"
    shell:
        "python -m steer activations"
        " --config {params.config:q}"
        " --model {wildcards.model:q}"
        " --facts {input.facts:q}"
        " --prompts {input.prompts:q}"
        " --out {output:q} > {log:q} 2>&1"
