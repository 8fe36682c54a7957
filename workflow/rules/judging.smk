"""Train embedded judges, and give every reply its verdict.

Needs: results/<model>/generation/<set>.jsonl, and the checkpoint of a judge that is a model.
Makes: results/<model>/judging/<set>.<judge>.jsonl, and results/judges/<judge>/checkpoint with
agreement.json for an embedded judge.
"""


rule judge:
    input:
        grammar=GRAMMAR,
    output:
        checkpoint=directory("<results>/judges/{judge}/checkpoint"),
        provenance="<results>/judges/{judge}/checkpoint.meta.json",
        agreement="<results>/judges/{judge}/agreement.json",
    log:
        "<logs>/judge/{judge}.log",
    benchmark:
        "<benchmarks>/judge/{judge}.tsv"
    priority: 10
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        trigger=trigger("judge", "judge"),
    message:
        "Training the embedded judge {wildcards.judge}"
    shell:
        "python -m steer judge"
        " --config {params.config:q}"
        " --judge {wildcards.judge:q}"
        " --out {output.checkpoint:q}"
        " --agreement {output.agreement:q} > {log:q} 2>&1"


rule judging:
    input:
        replies="<results>/{model}/generation/{set}.jsonl",
        prompts="<results>/prompts/{set}.jsonl",
        judge=lambda wildcards: get_judge(wildcards.judge),
    output:
        verdicts="<results>/{model}/judging/{set}.{judge}.jsonl",
        provenance="<results>/{model}/judging/{set}.{judge}.meta.json",
    log:
        "<logs>/judging/{model}/{set}.{judge}.log",
    benchmark:
        "<benchmarks>/judging/{model}/{set}.{judge}.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        trigger=trigger("judging", "judge"),
    message:
        "Judging {wildcards.model} on {wildcards.set} by {wildcards.judge}"
    shell:
        "python -m steer judging"
        " --config {params.config:q}"
        " --judge {wildcards.judge:q}"
        " --generation {input.replies:q}"
        " --prompts {input.prompts:q}"
        " --out {output.verdicts:q} > {log:q} 2>&1"
