# The two commands: `make run` and `make test`. Both set everything up on a fresh machine first.
SHELL := /bin/bash
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help run test test-fast chaos lint format bench clean setup setup-dev

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

run: setup  ## start the node (ARGS='--upstream sandbox --port 8001 …'; see crypto-data up --help)
	@exec $(BIN)/crypto-data up $(ARGS)

test: setup-dev  ## the whole suite: real MariaDB, Redis, Ray (ARGS='-k name' to narrow)
	@scripts/test-services
	@scripts/test $(ARGS)

test-fast: setup-dev  ## the tests that start no server (ARGS='-k name')
	@$(BIN)/python -m pytest -n 2 -m 'not integration and not node' $(ARGS)

chaos: setup-dev  ## hours: faults on real processes, SQLite and MariaDB, then 100,000 simulated lives (HOURS=24 SEEDS=100000 SEED=1)
	@scripts/test-services
	@failed=0; for database in sqlite mariadb; do $(BIN)/python -m tests.chaos --database $$database --hours $(or $(HOURS),24) \
		--seed $(or $(SEED),1) || failed=1; done; $(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),100000) && exit $$failed

lint: setup-dev  ## ruff, formatting and mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup-dev  ## let ruff format and fix what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup-dev  ## every benchmark against its peer, one after the other (minutes)
	@for program in benchmarks/*.py; do echo "== $$program"; $(BIN)/python $$program || exit 1; done

clean:  ## remove .venv and caches (never data/)
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

setup:
	@scripts/setup run

setup-dev:
	@scripts/setup dev
