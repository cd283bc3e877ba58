# Needs GNU make, git, and Python 3.11 or later with venv; everything else comes from pip into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# How many processes run the tests: a number, or auto for one a core (at most 8).
TEST_PROCESSES ?= auto
FAST_TESTS ?= $(addprefix tests/,catalog cli client jobs runtime wording)
# Handed on: `make test PYTEST_ARGS="-k lease -x"`, `make run DEMO_ARGS=--help`, `make up UP_ARGS="--workers 1"`.
PYTEST_ARGS ?=
DEMO_ARGS ?=
UP_ARGS ?=
PIP_ARGS ?=

# A stamp says which set of extras is installed, and that it is younger than what it was installed from.
RUN_STAMP := $(VENV)/.installed-all
DEV_STAMP := $(VENV)/.installed-dev
REQUIREMENTS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run up install test test-fast test-long test-machines lint format protos wording bench bench-extract bench-sae bench-tokenize clean

help: ## Show this
	@echo "make …"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

run: $(RUN_STAMP) ## Install, and carry one corpus through two models: tokenize, extract, train an autoencoder
	@$(BIN)/polytok demo $(DEMO_ARGS)

up: $(RUN_STAMP) ## Install, and keep the embedded stack running until Ctrl-C
	@$(BIN)/polytok up $(UP_ARGS)

install: $(DEV_STAMP) ## Install everything for development into .venv

test: $(DEV_STAMP) ## Run the tests
	@$(BIN)/python -m pytest -m "not long" -n $(TEST_PROCESSES) --maxprocesses 8 --dist worksteal $(PYTEST_ARGS)

test-fast: $(DEV_STAMP) ## Run what needs no server and no model, in under a minute
	@$(BIN)/python -m pytest -q -m "not long and not servers" $(FAST_TESTS) $(PYTEST_ARGS)

test-long: $(DEV_STAMP) ## Run the tests that take many seconds each
	@$(BIN)/python -m pytest -m long $(PYTEST_ARGS)

test-machines: $(DEV_STAMP) ## Run the tests of what computes with floats as other machines would
	@tests/machines.sh $(PYTEST_ARGS)

lint: $(DEV_STAMP) ## Check style, types, imports and contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python protos/build.py check
	$(BIN)/python protos/build.py lint
	$(BIN)/python protos/build.py breaking

format: $(DEV_STAMP) ## Rewrite sources and contracts in their style
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/python protos/build.py format

protos: $(DEV_STAMP) ## Generate the stubs under polytok/ from protos/
	$(BIN)/python protos/build.py generate

wording: $(DEV_STAMP) ## Write the golden files of every text that users read, under tests/wording/
	@$(BIN)/python -m tests.wording

bench: $(DEV_STAMP) ## Measure the platform; writes benchmarks/results/bench.json
	@$(BIN)/python -m benchmarks

bench-extract: $(DEV_STAMP) ## Measure extracting against SAELens's runner; writes benchmarks/results/extract.json
	@$(BIN)/python -m benchmarks.extract

bench-sae: $(DEV_STAMP) ## Measure training autoencoders against SAELens; writes benchmarks/results/sae.json
	@$(BIN)/python -W ignore -m benchmarks.sae

bench-tokenize: $(DEV_STAMP) ## Measure tokenizing against datasets.map; writes benchmarks/results/tokenize.json
	@$(BIN)/python -m benchmarks.tokenize

clean: ## Remove .venv and everything else that can be made again; data in POLYTOK_HOME stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN_STAMP): $(REQUIREMENTS) | $(BIN)/python
	$(call install,all)
	@touch $@

$(DEV_STAMP): $(REQUIREMENTS) | $(BIN)/python
	$(call install,dev)
	@touch $(RUN_STAMP) $@

define install
	$(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt -e '.[$(1)]'
endef

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo 'Python is missing. Install it with: sudo apt install python3 python3-venv' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Polytok needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V). Name another, as in: make PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments. Install what is missing with: sudo apt install python3-venv" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
