"""Hold judges against replies whose truth is known, and correct rates for the errors that they make there.

Needs: labelled replies, drawn from the grammar or in a file, and results/<model>/scores.csv.
Makes: results/judges/<judge>/labelled.csv; where `agreement.correct_by` names a set, results/<model>/corrected.csv;
and results/<model>/lengths.csv, what judges say of a model's own replies whole and cut short.
"""


rule agreement:
    input:
        judge=lambda wildcards: get_judge(wildcards.judge),
        labelled=get_labelled(),
    output:
        labelled="<results>/judges/{judge}/labelled.csv",
        provenance="<results>/judges/{judge}/labelled.meta.json",
    log:
        "<logs>/agreement/{judge}.log",
    benchmark:
        "<benchmarks>/agreement/{judge}.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        trigger=trigger("agreement", "judge"),
    message:
        "Holding {wildcards.judge} against labelled replies"
    shell:
        "python -m steer agreement"
        " --config {params.config:q}"
        " --judge {wildcards.judge:q}"
        " --out {output.labelled:q} > {log:q} 2>&1"


rule correction:
    input:
        scores="<results>/{model}/scores.csv",
        measured=expand(
            "<results>/judges/{judge}/labelled.csv", judge=settings.measured_judges
        ),
    output:
        corrected="<results>/{model}/corrected.csv",
        provenance="<results>/{model}/corrected.meta.json",
    log:
        "<logs>/correction/{model}.log",
    benchmark:
        "<benchmarks>/correction/{model}.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        trigger=trigger("correction"),
    message:
        "Correcting the rates of {wildcards.model} for the errors of its judges"
    shell:
        "python -m steer correction"
        " --config {params.config:q}"
        " --model {wildcards.model:q}"
        " --out {output.corrected:q} > {log:q} 2>&1"


rule lengths:
    input:
        replies=expand(
            "<results>/{{model}}/generation/{set}.jsonl", set=settings.generation.sets
        ),
        prompts=expand("<results>/prompts/{set}.jsonl", set=settings.generation.sets),
        judges=[get_judge(judge) for judge in settings.measured_judges],
    output:
        lengths="<results>/{model}/lengths.csv",
        provenance="<results>/{model}/lengths.meta.json",
    log:
        "<logs>/lengths/{model}.log",
    benchmark:
        "<benchmarks>/lengths/{model}.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        trigger=trigger("lengths"),
    message:
        "Judging replies of {wildcards.model} whole and cut short"
    shell:
        "python -m steer lengths"
        " --config {params.config:q}"
        " --model {wildcards.model:q}"
        " --out {output.lengths:q} > {log:q} 2>&1"
