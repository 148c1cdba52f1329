# tidefleet: `make demo` shows a day of a fleet, `make test` passes everything. Both install what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 3
export PYTHONPATH := deploy/local
# What is compiled once, tests included, is not compiled again by every process.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help venv tools cluster demo generate check types rules unit test test-engine bench clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

venv: $(STAMP) ## .venv with the project and all it needs to develop

tools: venv ## find, download or compile the servers that tests and demo run (cached per user)
	$(BIN)/python -m localcluster build

cluster: venv ## a local control plane with simulated accelerator nodes, until Ctrl-C
	$(BIN)/python -m localcluster up

demo: venv ## a day of a fleet: cluster, chart, operator, engines, real traces (about 3 minutes)
	$(BIN)/python -m demo

generate: venv ## CRDs, reference pages and the chart's copies
	$(BIN)/tidefleet crds generate
	$(BIN)/python deploy/generate.py

check: venv ## ruff, mypy --strict, import-linter, drift of generated files
	@$(MAKE) --no-print-directory -j 2 types rules

types: venv
	$(BIN)/mypy

rules: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/tidefleet crds generate --check
	$(BIN)/python deploy/generate.py --check

unit: venv ## the tests that need no server
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not cluster and not chart and not envoy"

# Most tests wait for servers, so three workers fit on two cores. What fails beside another worker on a small, shared machine is told, and tried once more alone; it must pass then.
test: check tools ## everything
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal || \
	  $(BIN)/python -m pytest --last-failed --last-failed-no-failures none --verbose

# Two vLLM replicas on the CPU: about 8 GB of memory, and 6 GB of disk and six minutes once for their environment.
test-engine: check tools ## the router with real vLLM engines
	$(BIN)/python -m realengine.environment
	TIDEFLEET_TEST_ENGINE=1 $(BIN)/python -m pytest -n 0 --verbose tests/engine

bench: venv tools ## the operator's benchmark: 200 pools x 500 nodes
	$(BIN)/python benchmarks/operator.py --pools 200 --nodes 500

clean: ## remove what was made here (not the per-user cache of servers)
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
