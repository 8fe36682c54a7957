"""What arms do to harmless text and to tasks of lm-evaluation-harness, in the model's own chat template.

Needs: results/<model>/model.json, results/<model>/arms, sets with replies, and the data of the tasks: files in
data/tasks, or what was fetched before.
Makes: results/<model>/perplexity.csv, a row per arm and set, and perplexity.jsonl, a line per text;
results/<model>/capability.csv, a row per arm, task and metric, and capability.jsonl, a line per question.
"""


rule perplexity:
    input:
        facts="<results>/{model}/model.json",
        sets=expand("<results>/prompts/{set}.jsonl", set=settings.perplexity.sets),
        replies=expand(
            "<results>/{{model}}/generation/{set}.jsonl", set=settings.read_back
        ),
        arms=expand(
            "<results>/{{model}}/arms/{arm}.safetensors", arm=settings.text_arms
        ),
    output:
        table="<results>/{model}/perplexity.csv",
        texts="<results>/{model}/perplexity.jsonl",
        provenance="<results>/{model}/perplexity.meta.json",
    log:
        "<logs>/perplexity/{model}.log",
    benchmark:
        "<benchmarks>/perplexity/{model}.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        replies=lambda wildcards, input: (
            ["--replies", *input.replies] if input.replies else []
        ),
        trigger=trigger("perplexity", "model"),
    message:
        "Reading harmless replies with {wildcards.model} under every arm"
    shell:
        "python -m steer perplexity"
        " --config {params.config:q}"
        " --model {wildcards.model:q}"
        " --facts {input.facts:q}"
        " --prompt-sets {input.sets:q}"
        " {params.replies:q}"
        " --arms {input.arms:q}"
        " --out {output.table:q}"
        " --texts {output.texts:q} > {log:q} 2>&1"


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
