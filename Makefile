# The two commands: `make run` and `make test`. Both set everything up on a fresh machine first.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup run test test-fast lint format bench clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed (found $$($(PYTHON) --version)); set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "cannot create $(VENV): install the venv module (Debian/Ubuntu: apt-get install python3-venv)"; exit 1; }
	@echo "installing into $(VENV) (pinned by constraints.txt; a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(STAMP)  ## create .venv and install the pinned dependencies

run: setup  ## start the node (ARGS='--port 8001 --upstream sandbox …'; see: crypto-data up --help)
	@exec $(BIN)/crypto-data up $(ARGS)

test: setup  ## the whole suite: real MariaDB, Redis, Ray (ARGS='-k name' to narrow)
	@scripts/test-services
	@$(BIN)/python -m pytest $(ARGS)

test-fast: setup  ## the tests that start no server (ARGS='-k name')
	@$(BIN)/python -m pytest -m 'not integration and not node' $(ARGS)

lint: setup  ## ruff, formatting and mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup  ## let ruff format and fix what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup  ## every benchmark against its peer (minutes)
	@for program in benchmarks/*.py; do case $$program in *_app.py|*/__init__.py) ;; *) echo "== $$program"; $(BIN)/python $$program || exit 1;; esac; done

clean:  ## remove .venv and caches (never data/)
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
