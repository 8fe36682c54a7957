"""Fetch public prompt sets.

Needs: a row of data/sources.tsv, and a network for the first run.
Makes: results/downloads/<source>, the file as it was pinned.
"""


rule download:
    output:
        file="<results>/downloads/{source}",
        provenance="<results>/downloads/{source}.meta.json",
    log:
        "<logs>/download/{source}.log",
    benchmark:
        "<benchmarks>/download/{source}.tsv"
    # Servers fail for minutes, longer than the command's own retries wait.
    retries: 1
    conda:
        "../../envs/steer.yaml"
    params:
        config=SETTINGS,
        # A source that is pinned anew is fetched anew; other settings of downloads change no byte.
        trigger=lambda wildcards: get_pin(wildcards.source),
    message:
        "Fetching {wildcards.source}"
    shell:
        "python -m steer download"
        " --config {params.config:q}"
        " --source {wildcards.source:q}"
        " --out {output.file:q} > {log:q} 2>&1"
