"""Draw prompt sets from the grammar, or convert the files of others.

Needs: data/grammar, or a fetched or given file of prompts; data/knowledge for questions with documents.
Makes: results/questions/<kind>.jsonl, questions with documents of a kind, which a set can name as its file; results/prompts/<set>.jsonl, a line per prompt with its label, category and split; results/overlap.csv, how
many prompts of a set say the same as test prompts of another.
"""


rule prompts:
    input:
        raw=get_raw_prompts,
        grammar=get_grammar,
        others=get_compared,
        attack=get_attack,
        beside=get_beside,
        refusals=get_refusals,
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
        others=lambda wildcards, input: (
            ["--others", *input.others] if input.others else []
        ),
        attack=lambda wildcards, input: (
            ["--attack", input.attack[0]] if input.attack else []
        ),
        beside=lambda wildcards, input: (
            ["--beside", input.beside] if input.beside else []
        ),
        trigger=trigger("prompts", "set"),
    message:
        "Making the prompt set {wildcards.set}"
    shell:
        "python -m steer prompts"
        " --config {params.config:q}"
        " --set {wildcards.set:q}"
        " {params.raw:q}"
        " {params.others:q}"
        " {params.attack:q}"
        " {params.beside:q}"
        " --out {output.prompts:q} > {log:q} 2>&1"


rule questions:
    input:
        knowledge=KNOWLEDGE,
    output:
        questions="<results>/questions/{kind}.jsonl",
        provenance="<results>/questions/{kind}.meta.json",
    log:
        "<logs>/questions/{kind}.log",
    benchmark:
        "<benchmarks>/questions/{kind}.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        trigger=trigger("questions"),
    message:
        "Writing questions with {wildcards.kind} documents"
    shell:
        "python -m steer questions"
        " --config {params.config:q}"
        " --kind {wildcards.kind:q}"
        " --out {output.questions:q} > {log:q} 2>&1"


rule overlap:
    input:
        prompts=expand("<results>/prompts/{set}.jsonl", set=settings.used_sets),
        provenance=expand("<results>/prompts/{set}.meta.json", set=settings.used_sets),
    output:
        table="<results>/overlap.csv",
        provenance="<results>/overlap.meta.json",
    log:
        "<logs>/overlap/all.log",
    benchmark:
        "<benchmarks>/overlap/all.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        trigger=trigger("overlap"),
    message:
        "Looking for prompts that say the same in {input.prompts}"
    shell:
        "python -m steer overlap"
        " --config {params.config:q}"
        " --prompt-sets {input.prompts:q}"
        " --out {output.table:q} > {log:q} 2>&1"
