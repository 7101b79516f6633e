# The two that matter: `make run` and `make test`. Each sets up what it needs.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# DUMP=path  EPOCHS=n  MODEL=name  PARAMS="name=value name=value", as they are: neither make nor a shell gets to read
# them, for what they hold may be anything. Under their own names make would expand them on the way out.
export CVAT_DETR_DUMP   := $(value DUMP)
export CVAT_DETR_EPOCHS := $(value EPOCHS)
export CVAT_DETR_MODEL  := $(value MODEL)
export CVAT_DETR_PARAMS := $(value PARAMS)
unexport DUMP EPOCHS MODEL PARAMS

.DEFAULT_GOAL := help
.PHONY: help run test test-slow compile docs lock lint format clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  make run takes DUMP=path EPOCHS=n MODEL=name PARAMS="name=value name=value"'

run: $(READY) ## Train on a drawn sample, or on DUMP=path, through the whole workflow on this machine
	@$(BIN)/python -m pipelines run

# A process a core: threads of their own would only get in each other's way.
test: $(READY) ## Run the tests (a few minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' --numprocesses auto --dist worksteal

test-slow: $(READY) ## Run the tests that train for minutes, and all faults, with their table
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow or faults' --numprocesses auto --dist worksteal

compile: $(READY) ## Write manifests/ from the workflow in pipelines/
	@$(BIN)/python -m pipelines compile

# The locks are for the pods: Linux, Python 3.11 to 3.13. PyTorch is not among them, since its image brings it.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
        --custom-compile-command 'make lock'
lock: $(READY) ## Write requirements/, what pods and images install; UPGRADE=--upgrade for newer versions
	@$(LOCK) $(UPGRADE) pyproject.toml --extra cvat --output-file requirements/steps.txt
	@$(LOCK) $(UPGRADE) pyproject.toml --extra train --extra hf --extra cvat --overrides requirements/image.txt \
	  $(foreach name,torch torchvision sympy mpmath networkx,--no-emit-package $(name)) --output-file requirements/train.txt
	@echo tensorboard | $(LOCK) - --constraints requirements/train.txt --output-file requirements/tensorboard.txt

docs: $(READY) ## Write docs/hyperparameters.md from the declarations in trainer/
	@$(BIN)/python -m steps hyperparameters --markdown > docs/hyperparameters.md

lint: $(READY) ## Check style and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

format: $(READY) ## Format the code
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

clean: ## Remove the environment and what runs wrote
	rm -rf $(VENV) runs build *.egg-info .mypy_cache .pytest_cache .ruff_cache

# Older pips lose themselves in resolving this set, hence the upgrade.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed: make PYTHON=python3.12")'
	@echo 'Installing into $(VENV) (once; PyTorch is large) ...'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable '.[train,hf,export,pipelines,dev]'
	@touch $@
