"""Train embedded models, and prove and describe every model under study.

Needs: data/grammar, or the folder of a checkpoint.
Makes: results/compliance/<base>, a model that answers everything, for embedded models to be trained from;
results/<model>/checkpoint for an embedded model, and results/<model>/model.json for every one.
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


rule resolve:
    input:
        checkpoint=get_checkpoint,
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
