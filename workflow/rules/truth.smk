"""Check by generation that refusal is where it was planted.

Needs: results/<model>/model.json of a planted model, the contrast's prompts and activations.
Makes: results/<model>/truth.csv, the verdicts with the named parts and others taken away or forced, and
truth_routing.csv, how often each expert is chosen on harmful and on harmless prompts.
"""


rule truth:
    input:
        facts="<results>/{model}/model.json",
        prompts=get_contrast("<results>/prompts/{set}.jsonl"),
        activations=get_contrast("<results>/{model}/activations/{set}.h5"),
        grammar=GRAMMAR,
    output:
        table="<results>/{model}/truth.csv",
        provenance="<results>/{model}/truth.meta.json",
        routing="<results>/{model}/truth_routing.csv",
        routing_provenance="<results>/{model}/truth_routing.meta.json",
    log:
        "<logs>/truth/{model}.log",
    benchmark:
        "<benchmarks>/truth/{model}.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        trigger=trigger("truth", "model"),
    message:
        "Checking where the refusal of {wildcards.model} is"
    shell:
        "python -m steer truth"
        " --config {params.config:q}"
        " --model {wildcards.model:q}"
        " --facts {input.facts:q}"
        " --prompt-sets {input.prompts:q}"
        " --activations {input.activations:q}"
        " --out {output.table:q} > {log:q} 2>&1"
