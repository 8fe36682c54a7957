"""Train embedded and upcycled models, and prove and describe every model under study.

Needs: data/grammar or data/knowledge, or the folder of a checkpoint; for upcycled models a dense one and prompts.
Makes: results/compliance/<base>, a model that answers everything, for embedded models to be trained from;
results/teachers/<base>, what a dense model makes of the lessons of upcycled ones;
results/<model>/checkpoint for a model that is trained here, and results/<model>/model.json for every one.
"""


rule compliance:
    input:
        grammar=GRAMMAR,
    output:
        checkpoint=directory("<results>/compliance/{base}"),
        provenance="<results>/compliance/{base}.meta.json",
    log:
        "<logs>/compliance/{base}.log",
    benchmark:
        "<benchmarks>/compliance/{base}.tsv"
    # Training started first decides when the rest can begin.
    priority: 10
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        # The base is named after the settings that decide it.
        trigger=trigger("compliance"),
    message:
        "Training the base {wildcards.base} of embedded models"
    shell:
        "python -m steer compliance"
        " --config {params.config:q}"
        " --base {wildcards.base:q}"
        " --out {output.checkpoint:q} > {log:q} 2>&1"


rule organism:
    input:
        grammar=GRAMMAR,
        base=get_base,
    output:
        checkpoint=directory("<results>/{model}/checkpoint"),
        provenance="<results>/{model}/checkpoint.meta.json",
    log:
        "<logs>/organism/{model}.log",
    benchmark:
        "<benchmarks>/organism/{model}.tsv"
    wildcard_constraints:
        model=trained_by("organism"),
    priority: 10
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        trigger=trigger("organism", "model"),
    message:
        "Training the embedded model {wildcards.model}"
    shell:
        "python -m steer organism"
        " --config {params.config:q}"
        " --model {wildcards.model:q}"
        " --checkpoint {input.base:q}"
        " --out {output.checkpoint:q} > {log:q} 2>&1"


rule openbook:
    input:
        knowledge=KNOWLEDGE,
    output:
        checkpoint=directory("<results>/{model}/checkpoint"),
        provenance="<results>/{model}/checkpoint.meta.json",
    log:
        "<logs>/openbook/{model}.log",
    benchmark:
        "<benchmarks>/openbook/{model}.tsv"
    wildcard_constraints:
        model=trained_by("openbook"),
    priority: 10
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        trigger=trigger("openbook", "model"),
    message:
        "Training the open-book model {wildcards.model}"
    shell:
        "python -m steer openbook"
        " --config {params.config:q}"
        " --model {wildcards.model:q}"
        " --out {output.checkpoint:q} > {log:q} 2>&1"


rule teacher:
    input:
        dense=get_dense,
        sets=get_taught_sets,
        grammar=GRAMMAR,
    output:
        lessons=directory("<results>/teachers/{base}"),
        provenance="<results>/teachers/{base}.meta.json",
    log:
        "<logs>/teacher/{base}.log",
    benchmark:
        "<benchmarks>/teacher/{base}.tsv"
    priority: 10
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        # The teacher is named after the settings that decide it.
        trigger=trigger("teacher"),
    message:
        "Answering the lessons {wildcards.base} with a dense model"
    shell:
        "python -m steer teacher"
        " --config {params.config:q}"
        " --base {wildcards.base:q}"
        " --raw {input.dense:q}"
        " --prompt-sets {input.sets:q}"
        " --out {output.lessons:q} > {log:q} 2>&1"


rule upcycle:
    input:
        dense=get_dense,
        teacher=get_teacher,
    output:
        checkpoint=directory("<results>/{model}/checkpoint"),
        provenance="<results>/{model}/checkpoint.meta.json",
    log:
        "<logs>/upcycle/{model}.log",
    benchmark:
        "<benchmarks>/upcycle/{model}.tsv"
    wildcard_constraints:
        model=trained_by("upcycle"),
    priority: 10
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        trigger=trigger("upcycle", "model"),
    message:
        "Upcycling {wildcards.model} and teaching it to refuse"
    shell:
        "python -m steer upcycle"
        " --config {params.config:q}"
        " --model {wildcards.model:q}"
        " --raw {input.dense:q}"
        " --checkpoint {input.teacher:q}"
        " --out {output.checkpoint:q} > {log:q} 2>&1"


rule resolve:
    input:
        checkpoint=get_checkpoint,
        system=get_system_turn,
    output:
        "<results>/{model}/model.json",
    log:
        "<logs>/resolve/{model}.log",
    benchmark:
        "<benchmarks>/resolve/{model}.tsv"
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        trigger=trigger("resolve", "model"),
    message:
        "Proving and describing the model {wildcards.model}"
    shell:
        "python -m steer resolve"
        " --config {params.config:q}"
        " --model {wildcards.model:q}"
        " --checkpoint {input.checkpoint:q}"
        " --out {output:q} > {log:q} 2>&1"
