# make demo   see it work: a recorded training run, from a real API server into a real MLflow  (PODS=1: in real pods)
# make demo-down  stop what the demo left running
# make test   everything: style, types, floors, unit, property, contract, cluster and end-to-end tests
#             (STORMS=1: and the storms, minutes of kills, restarts and outages, as in CI)
# make lint   only style, types and floors           make bench         the budgets, measured beside their anchors
# make chaos SEED=n  break all around the operator, and judge what the trackers hold  (RUNS=150: shorter than 500 runs)
# make cluster  a real cluster on this machine       make cluster-down  take it away again
# CONTEXT=name  use your own cluster instead: nothing is built, nothing outside our own namespaces is touched

SHELL := /bin/bash
STATE := $(or $(PIPETRAIL_STATE),$(HOME)/.cache/pipetrail)
UV := $(or $(shell command -v uv),$(STATE)/uv/bin/uv)
RUN := $(UV) run --locked --all-extras
TIER := $(or $(TIER),$(shell test "$$(uname)" = Linux -a "$$(id -u)" = 0 && echo node || echo api))
# Also on two cores: the slow tests mostly wait.
WORKERS := 4
# Hundreds of short processes are started: none compiles what another has, whatever the environment says.
export PYTHONDONTWRITEBYTECODE :=
CONTEXT_FLAG := $(if $(CONTEXT),--context $(CONTEXT))

.PHONY: help demo demo-down test lint bench chaos cluster cluster-down crds
help:
	@sed -n 's/^# \(make .*\)/\1/p;s/^# \(CONTEXT.*\)/\1/p' Makefile

$(STATE)/uv/bin/uv:
	@echo "uv is not on this machine: installing it into $(STATE)/uv"
	@mkdir -p $(STATE)
	@python3 -m venv $(STATE)/uv || { echo "python3 can't make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(STATE)/uv/bin/pip install --quiet --disable-pip-version-check "uv>=0.9,<1"

.PHONY: env
env: $(UV)
	@$(UV) sync --locked --all-extras --quiet

demo: env
	@$(RUN) python -m deploy.demo $(CONTEXT_FLAG) $(if $(PODS),--pods) $(DEMO_FLAGS)

demo-down: env
	@$(RUN) python -m deploy.demo --down

test: env lint
	@$(if $(CONTEXT),,python3 deploy/local/cluster.py up --tier $(TIER))
	@$(RUN) pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(if $(STORMS),--storms) $(if $(CONTEXT),--context $(CONTEXT)) $(PYTEST_FLAGS)

lint: env
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@$(RUN) lint-imports --no-cache | tail -n 12

bench: env
	@$(RUN) python -m tests.bench $(CONTEXT_FLAG)

chaos: env
	@$(RUN) python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(RUNS),--runs $(RUNS)) $(CHAOS_FLAGS)

cluster:
	@python3 deploy/local/cluster.py up --tier $(TIER)

cluster-down:
	@python3 deploy/local/cluster.py down

crds: env
	@$(RUN) pipetrail crds --write crds
