"""Draw prompt sets from the grammar, or convert the files of others.

Needs: data/grammar, or a fetched or given file of prompts.
Makes: results/prompts/<set>.jsonl, a line per prompt with its label, category and split.
"""


rule prompts:
    input:
        raw=get_raw_prompts,
        grammar=get_grammar,
    output:
        prompts="<results>/prompts/{set}.jsonl",
        provenance="<results>/prompts/{set}.meta.json",
    log:
        "<logs>/prompts/{set}.log",
    benchmark:
        "<benchmarks>/prompts/{set}.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        raw=lambda wildcards, input: ["--raw", input.raw] if input.raw else [],
        trigger=trigger("prompts", "set"),
    message:
        "Making the prompt set {wildcards.set}"
    shell:
        "python -m steer prompts"
        " --config {params.config:q}"
        " --set {wildcards.set:q}"
        " {params.raw:q}"
        " --out {output.prompts:q} > {log:q} 2>&1"
