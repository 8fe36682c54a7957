"""Count verdicts, with intervals, differences to the baseline, and agreement between judges.

Needs: every set's replies and every judge's verdicts on them, and the prompts that anything was estimated or
chosen on, which tell seen categories from unseen ones.
Makes: results/<model>/scores.csv, categories.csv, agreement.csv, pooled.csv and recovery.csv; and
results/<model>/fluency.csv where a judge grades fluency.
"""


rule scores:
    input:
        prompts=expand(
            "<results>/prompts/{set}.jsonl",
            set=dict.fromkeys([*settings.generation.sets, *settings.estimating]),
        ),
        replies=expand(
            "<results>/{{model}}/generation/{set}.jsonl", set=settings.generation.sets
        ),
        verdicts=expand(
            "<results>/{{model}}/judging/{set}.{judge}.jsonl",
            set=settings.generation.sets,
            judge=settings.verdict_judges,
        ),
    output:
        scores="<results>/{model}/scores.csv",
        agreement="<results>/{model}/agreement.csv",
        categories="<results>/{model}/categories.csv",
        pooled="<results>/{model}/pooled.csv",
        recovery="<results>/{model}/recovery.csv",
        provenance=expand(
            "<results>/{{model}}/{table}.meta.json",
            table=["scores", "agreement", "categories", "pooled", "recovery"],
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
        " --agreement {output.agreement:q}"
        " --categories {output.categories:q}"
        " --pooled {output.pooled:q}"
        " --recovery {output.recovery:q} > {log:q} 2>&1"


rule fluency:
    input:
        replies=expand(
            "<results>/{{model}}/generation/{set}.jsonl", set=settings.generation.sets
        ),
        grades=expand(
            "<results>/{{model}}/judging/{set}.{judge}.jsonl",
            set=settings.generation.sets,
            judge=settings.grading_judges,
        ),
    output:
        fluency="<results>/{model}/fluency.csv",
        provenance="<results>/{model}/fluency.meta.json",
    log:
        "<logs>/fluency/{model}.log",
    benchmark:
        "<benchmarks>/fluency/{model}.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        trigger=trigger("fluency"),
    message:
        "Averaging the grades of {wildcards.model}"
    shell:
        "python -m steer fluency"
        " --config {params.config:q}"
        " --model {wildcards.model:q}"
        " --out {output.fluency:q} > {log:q} 2>&1"
