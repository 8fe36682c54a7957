"""Run tasks of lm-evaluation-harness under the arms, in the model's own chat template.

Needs: results/<model>/model.json, results/<model>/arms, and the data of the tasks: files in data/tasks, or what
was fetched before.
Makes: results/<model>/capability.csv, a row per arm, task and metric, and capability.jsonl, a line per question.
"""


rule capability:
    input:
        facts="<results>/{model}/model.json",
        arms=expand(
            "<results>/{{model}}/arms/{arm}.safetensors", arm=settings.capable_arms
        ),
        tasks=get_tasks(),
    output:
        table="<results>/{model}/capability.csv",
        questions="<results>/{model}/capability.jsonl",
        provenance="<results>/{model}/capability.meta.json",
    log:
        "<logs>/capability/{model}.log",
    benchmark:
        "<benchmarks>/capability/{model}.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        trigger=trigger("capability", "model"),
    message:
        "Measuring what {wildcards.model} can do under its arms"
    shell:
        "python -m steer capability"
        " --config {params.config:q}"
        " --model {wildcards.model:q}"
        " --facts {input.facts:q}"
        " --arms {input.arms:q}"
        " --out {output.table:q}"
        " --questions {output.questions:q} > {log:q} 2>&1"
