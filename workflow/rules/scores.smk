"""Count verdicts, with intervals, differences to the baseline, and agreement between judges.

Needs: every set's replies and every judge's verdicts on them.
Makes: results/<model>/scores.csv and results/<model>/agreement.csv.
"""


rule scores:
    input:
        replies=expand(
            "<results>/{{model}}/generation/{set}.jsonl", set=settings.generation.sets
        ),
        verdicts=expand(
            "<results>/{{model}}/judging/{set}.{judge}.jsonl",
            set=settings.generation.sets,
            judge=settings.judges,
        ),
    output:
        scores="<results>/{model}/scores.csv",
        agreement="<results>/{model}/agreement.csv",
        provenance=expand(
            "<results>/{{model}}/{table}.meta.json", table=["scores", "agreement"]
        ),
    log:
        "<logs>/scores/{model}.log",
    benchmark:
        "<benchmarks>/scores/{model}.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        trigger=trigger("scores"),
    message:
        "Scoring {wildcards.model}"
    shell:
        "python -m steer scores"
        " --config {params.config:q}"
        " --model {wildcards.model:q}"
        " --out {output.scores:q}"
        " --agreement {output.agreement:q} > {log:q} 2>&1"
