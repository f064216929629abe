# The commands of this project. `make` alone lists them; each is a line or two here, the work is in tools/.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help venv run test check bench format docs lock clean \
        cluster cluster-status cluster-kill cluster-freeze cluster-thaw cluster-start cluster-stop

PYTHON_IN := .venv/bin/python
ARGS ?=
N ?= 1

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  Parameters: ARGS='...' for run, test and bench, N=1 for cluster-*, PYTHON=python3.12 for the interpreter of .venv."

venv: ## Install everything into .venv, in the versions of constraints.txt (a no-op when up to date)
	@tools/venv

run: venv ## Start etcd and the service with sample data; Ctrl-C stops both
	@$(PYTHON_IN) -m configsvc dev $(ARGS)

test: ## Run all tests; what they need is installed first (ARGS='tests/unit -k feed' runs some)
	@tools/test $(ARGS)

check: venv ## Format, lint, types, layers, and docs against the code
	@tools/check

bench: venv ## Measure beside nginx, etcd and others, in a table and as JSON (ARGS='reads fanout', ARGS=--quick)
	@$(PYTHON_IN) -m bench $(ARGS)

format: venv ## Rewrite the code in the project's format
	@.venv/bin/ruff check --quiet --fix-only . && .venv/bin/ruff format .

docs: venv ## Rewrite the reference pages that come from tables in the code
	@PYTHONPATH=. $(PYTHON_IN) tools/docs.py

lock: ## Resolve all dependencies anew and write constraints.txt
	@tools/venv --lock

cluster: venv ## Start three etcd members and two service replicas as local processes
	@$(PYTHON_IN) tools/cluster.py up

cluster-status: venv ## Say what each process of the cluster is doing
	@$(PYTHON_IN) tools/cluster.py status

cluster-kill: venv ## Kill etcd member N, as a crash would (N=r1: service replica 1)
	@$(PYTHON_IN) tools/cluster.py kill $(N)

cluster-freeze: venv ## Freeze etcd member N: its connections stay open and answer nothing
	@$(PYTHON_IN) tools/cluster.py freeze $(N)

cluster-thaw: venv ## Let a frozen member go on
	@$(PYTHON_IN) tools/cluster.py thaw $(N)

cluster-start: venv ## Start a killed member again, on its data
	@$(PYTHON_IN) tools/cluster.py start $(N)

cluster-stop: venv ## Stop the cluster and delete its data
	@$(PYTHON_IN) tools/cluster.py down

clean: ## Delete caches and what runs left behind; .venv stays
	@if [ -d .configsvc/cluster ] && [ -x $(PYTHON_IN) ]; then $(PYTHON_IN) tools/cluster.py down; fi
	@rm -rf .cache .configsvc .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist htmlcov
	@find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
