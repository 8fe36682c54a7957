"""Choose layer and position, strength and scope, and experts, on `val`; then write the arms.

Needs: results/<model>/directions/refusal.safetensors and the contrast's prompts; its activations for `bias_router`,
and those of the sets that `swap` takes from.
Makes: results/<model>/selection/<method>.csv with every candidate and <method>.json with the choice,
and results/<model>/arms/<arm>.safetensors, every intervention as data, with how often the experts of controls
are called (controls.csv).
"""


rule selection:
    input:
        facts="<results>/{model}/model.json",
        directions="<results>/{model}/directions/refusal.safetensors",
        prompts=get_contrast("<results>/prompts/{set}.jsonl"),
    output:
        table="<results>/{model}/selection/{method}.csv",
        choice="<results>/{model}/selection/{method}.json",
    log:
        "<logs>/selection/{model}/{method}.log",
    benchmark:
        "<benchmarks>/selection/{model}/{method}.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        out=subpath(output.table, strip_suffix=".csv"),
        trigger=lambda wildcards: trigger(wildcards.method, "model")(wildcards),
    message:
        "Choosing layer and position of {wildcards.model} by {wildcards.method}"
    shell:
        "python -m steer selection"
        " --config {params.config:q}"
        " --method {wildcards.method:q}"
        " --model {wildcards.model:q}"
        " --facts {input.facts:q}"
        " --directions {input.directions:q}"
        " --harmful {input.prompts[0]:q}"
        " --harmless {input.prompts[1]:q}"
        " --out {params.out:q} > {log:q} 2>&1"


rule strength:
    input:
        facts="<results>/{model}/model.json",
        directions="<results>/{model}/directions/refusal.safetensors",
        prompts=get_contrast("<results>/prompts/{set}.jsonl"),
        choices=expand(
            "<results>/{{model}}/selection/{method}.json", method=["arditi", "cosmic"]
        ),
        judge=lambda wildcards: get_judge(settings.selection.strength.judge),
    output:
        table="<results>/{model}/selection/strength.csv",
        choice="<results>/{model}/selection/strength.json",
    log:
        "<logs>/selection/{model}/strength.log",
    benchmark:
        "<benchmarks>/selection/{model}/strength.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        out=subpath(output.table, strip_suffix=".csv"),
        trigger=trigger("strength", "model"),
    message:
        "Choosing strength and scope of every arm of {wildcards.model}"
    shell:
        "python -m steer selection"
        " --config {params.config:q}"
        " --method strength"
        " --model {wildcards.model:q}"
        " --facts {input.facts:q}"
        " --directions {input.directions:q}"
        " --harmful {input.prompts[0]:q}"
        " --harmless {input.prompts[1]:q}"
        " --out {params.out:q} > {log:q} 2>&1"


rule rerouting:
    input:
        facts="<results>/{model}/model.json",
        ranking=f"<results>/{{model}}/routing/{settings.selection.rerouting.ranking}.csv",
        prompts=expand("<results>/prompts/{set}.jsonl", set=settings.tried.values()),
        judge=lambda wildcards: get_judge(settings.selection.rerouting.judge),
    output:
        table="<results>/{model}/selection/rerouting.csv",
        choice="<results>/{model}/selection/rerouting.json",
    log:
        "<logs>/selection/{model}/rerouting.log",
    benchmark:
        "<benchmarks>/selection/{model}/rerouting.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        out=subpath(output.table, strip_suffix=".csv"),
        trigger=trigger("rerouting", "model"),
    message:
        "Choosing how many experts of {wildcards.model} are rerouted"
    shell:
        "python -m steer rerouting"
        " --config {params.config:q}"
        " --model {wildcards.model:q}"
        " --facts {input.facts:q}"
        " --ranking {input.ranking:q}"
        " --prompt-sets {input.prompts:q}"
        " --out {params.out:q} > {log:q} 2>&1"


rule experts:
    input:
        facts="<results>/{model}/model.json",
        directions="<results>/{model}/directions/experts.safetensors",
        prompts=get_contrast("<results>/prompts/{set}.jsonl"),
        judge=lambda wildcards: get_judge(settings.selection.strength.judge),
    output:
        table="<results>/{model}/selection/experts.csv",
        choice="<results>/{model}/selection/experts.json",
    log:
        "<logs>/selection/{model}/experts.log",
    benchmark:
        "<benchmarks>/selection/{model}/experts.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        out=subpath(output.table, strip_suffix=".csv"),
        trigger=trigger("experts", "model"),
    message:
        "Choosing experts, position and coefficient of {wildcards.model}"
    shell:
        "python -m steer selection"
        " --config {params.config:q}"
        " --method experts"
        " --model {wildcards.model:q}"
        " --facts {input.facts:q}"
        " --directions {input.directions:q}"
        " --harmful {input.prompts[0]:q}"
        " --harmless {input.prompts[1]:q}"
        " --out {params.out:q} > {log:q} 2>&1"


rule ranges:
    input:
        facts="<results>/{model}/model.json",
        activations=get_contrast("<results>/{model}/activations/{set}.h5"),
    output:
        table="<results>/{model}/selection/ranges.csv",
        provenance="<results>/{model}/selection/ranges.meta.json",
    log:
        "<logs>/selection/{model}/ranges.log",
    benchmark:
        "<benchmarks>/selection/{model}/ranges.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        trigger=trigger("ranges"),
    message:
        "Measuring how far the router logits of {wildcards.model} spread"
    shell:
        "python -m steer ranges"
        " --config {params.config:q}"
        " --facts {input.facts:q}"
        " --activations {input.activations:q}"
        " --out {output.table:q} > {log:q} 2>&1"


rule arms:
    input:
        facts="<results>/{model}/model.json",
        directions=get_directions("<results>/{model}/directions/refusal.safetensors"),
        strength=get_directions("<results>/{model}/selection/strength.json"),
        rerouting=get_rerouting,
        experts=get_experts("<results>/{model}/directions/experts.safetensors"),
        chosen=get_chosen_experts("<results>/{model}/selection/experts.json"),
        ranges=get_ranges,
        prompts=get_donors("<results>/prompts/{set}.jsonl"),
        activations=get_donors("<results>/{model}/activations/{set}.h5"),
    output:
        expand("<results>/{{model}}/arms/{arm}.safetensors", arm=settings.arms),
        controls="<results>/{model}/arms/controls.csv",
        provenance="<results>/{model}/arms/controls.meta.json",
    log:
        "<logs>/arms/{model}.log",
    benchmark:
        "<benchmarks>/arms/{model}.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        selection=lambda wildcards: f"{settings.results}/{wildcards.model}/selection",
        out=subpath(output[0], parent=True),
        directions=lambda wildcards, input: (
            ["--directions", input.directions] if input.directions else []
        ),
        experts=lambda wildcards, input: (
            ["--experts", input.experts] if input.experts else []
        ),
        donors=lambda wildcards, input: (
            ["--prompt-sets", *input.prompts, "--activations", *input.activations]
            if input.prompts
            else []
        ),
        trigger=trigger("arms"),
    message:
        "Writing the arms of {wildcards.model}"
    shell:
        "python -m steer arms"
        " --config {params.config:q}"
        " --model {wildcards.model:q}"
        " --facts {input.facts:q}"
        " {params.directions:q}"
        " --selection {params.selection:q}"
        " {params.experts:q}"
        " {params.donors:q}"
        " --out {params.out:q} > {log:q} 2>&1"
