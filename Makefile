# Two commands matter: `make demo` and `make test`. Both set everything up by themselves.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# One pinned torch everywhere. Where the default index offers a CUDA build and a CPU build is wanted:
#   make demo TORCH="torch==2.13.0 --index-url <the CPU index of pytorch.org>"
TORCH  ?= torch==2.13.0
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM = false

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench report clean

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: $(VENV)/.ready  ## virtual environment with pinned dependencies

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "PYTHON=$(PYTHON): arrol needs Python 3.11 or newer; call make PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing (once, a few minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: setup  ## train with and without pruning, then a table and a report (5 minutes on 2 cores)
	@rm -rf runs/demo
	@$(BIN)/arrol compare configs/demo.toml

test: setup  ## the whole test suite
	@$(BIN)/python -m pytest

check: setup  ## format, lint, types, import law, sizes, spelling
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports > /dev/null || $(BIN)/lint-imports
	@$(BIN)/python -m pytest -q tests/contract
	@$(BIN)/codespell src tests docs examples benchmarks configs README.md CONTRIBUTING.md CHANGELOG.md

format: setup  ## rewrite in the house's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup  ## speed of generation and of a step beside their rivals
	@$(BIN)/python benchmarks/generation.py
	@$(BIN)/python benchmarks/pruning.py
	@echo "a whole step beside TRL: see benchmarks/README.md, it needs an environment of its own"

report: setup  ## regenerate tables of README and docs from results/
	@$(BIN)/python benchmarks/render_results.py

clean:  ## remove the environment and caches, keep runs
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build src/*.egg-info
