# One command sets up and does the job: `make repro`. `make help` lists the rest.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Stages call `crab`, and nothing asks a question or reports home.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export TF_CPP_MIN_LOG_LEVEL := 2

.PHONY: help setup repro test lab report full bench lint clean

help: ## list the commands
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

# Pinned versions from requirements.lock; made again when the pins change.
$(VENV)/.made: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"Python {v[0]}.{v[1]} found: CRAB needs 3.11, 3.12 or 3.13; set PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "uv==$$(sed -n 's/^uv==//p' requirements.lock)"
	UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never $(BIN)/uv pip install --quiet \
		--python $(BIN)/python --editable '.[dev]' --constraint requirements.lock
	touch $@

setup: $(VENV)/.made ## create the environment in .venv

repro: setup ## build everything: Monte Carlo, network, generated data, reports
	dvc repro
	echo
	echo "Reports: file://$(CURDIR)/reports/index.html"

test: setup ## run all tests
	python -m pytest

lab: setup ## open the notebooks in JupyterLab
	jupyter lab --notebook-dir=notebooks

report: setup ## render the reports again from what has been run
	crab report

full: setup ## publication settings too: hours on a workstation, networks want a GPU
	sed -i '/^active_profiles/,/^active_missions/{/^  - full$$/d;s/^  - smoke$$/  - smoke\n  - full/}' params.yaml
	dvc repro

bench: setup ## measure speed; writes reports/tables/benchmarks.csv
	python -m benchmarks

lint: setup ## style checks: ruff, and notebooks without outputs
	ruff check .
	ruff format --check .
	nbstripout --verify notebooks/*.ipynb

clean: ## remove what can be rebuilt; asks nothing, keeps .venv and the DVC cache
	rm -rf build reports data/hits data/tod data/cubes data/models .pytest_cache .ruff_cache
