# The README's two commands: `make` runs the whole flow, `make test` proves the installation.

PYTHON ?=
TORCH_INDEX ?=
CORES ?= all
SNAKEMAKE_ARGS ?=
PYTEST_ARGS ?=
# Nothing is fetched from a model hub unless asked: `make HF_HUB_OFFLINE=0`.
HF_HUB_OFFLINE ?= 1
export HF_HUB_OFFLINE

python := $(or $(PYTHON),python3)
in_venv := . .venv/bin/activate &&
snakemake := $(in_venv) snakemake --workflow-profile workflow/profiles/default --cores $(CORES) $(SNAKEMAKE_ARGS)
# What the report shows or is built by.
shown := results config.yaml Snakefile workflow

.PHONY: run report english test lint bench setup lock unlock clean distclean help
.DEFAULT_GOAL := run

run: setup ## run the flow on config.yaml and bring the report up to date (the default)
	@$(snakemake)
	@if [ ! -f results/report.html ] || [ -n "$$(find -H $(shown) -type f -newer results/report.html)" ]; \
	then $(snakemake) --report results/report.html; fi

report: setup ## build results/report.html from finished results
	@$(snakemake) --report results/report.html

english: setup ## make a real small language model with experts that refuses, and run the flow on it
	@$(snakemake) --configfile workflow/studies/smollm2-moe.yaml
	@$(snakemake) --configfile workflow/studies/smollm2-moe.yaml --report results/english/report.html
	@$(in_venv) python -m pytest -m english tests/english

test: lint ## check format, lint and types, then run the tests
	@$(in_venv) python -m pytest -n 2 $(PYTEST_ARGS)

lint: setup ## check format, lint and types
	@$(in_venv) ruff check .
	@$(in_venv) ruff format --check .
	@$(in_venv) snakefmt --check Snakefile workflow
	@$(in_venv) snakemake --lint
	@$(in_venv) mypy

bench: setup ## measure the speed ratios
	@$(in_venv) python -m bench

setup: ## make .venv and fetch public prompts, or find both there
	@command -v "$(python)" > /dev/null || { echo "$(python): no such command; install Python 3.11 or newer," \
	"and run \`make PYTHON=/path/to/python3\`" >&2; exit 1; }
	@"$(python)" -c 'import sys; sys.exit(None if sys.version_info >= (3, 8) else \
	"Python 3.11 or newer is needed (`make PYTHON=/path/to/python3`); this is Python " + sys.version)'
	@"$(python)" envs/install.py --torch-index "$(TORCH_INDEX)" $(if $(PYTHON),--same-python)
	@[ .venv/prefetched -nt data/sources.tsv ] || { echo "set-up: fetching the public prompts of config.yaml"; \
	$(in_venv) python -m steer prefetch && touch .venv/prefetched; } || echo "set-up: going on without them; the run asks again" >&2

lock: ## compile envs/steer.lock.txt from envs/*.in (needs the package index)
	@"$(python)" envs/compile.py

unlock: setup ## free the folder after a run that was killed
	@$(snakemake) --unlock

clean: ## remove what the flow made
	rm -rf results logs benchmarks

distclean: clean ## remove the environment and all caches too
	rm -rf .venv .venv-vllm .snakemake .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

help: ## print this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo 'PYTHON=python3.12   the Python to build .venv with (3.11 or newer)'
	@echo 'CORES=N             cores for the flow (default: all)'
	@echo 'TORCH_INDEX=URL     a further package index. On Linux, PyPI has only the CUDA build of torch (about 6 GB'
	@echo '                    more); https://download.pytorch.org/whl/cpu has the one without'
	@echo 'SNAKEMAKE_ARGS=...  passed on, as in SNAKEMAKE_ARGS="--dry-run"; PYTEST_ARGS=... likewise'
	@echo 'HF_HUB_OFFLINE=0    let real studies fetch models from the hub'
