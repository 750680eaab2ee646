# Every target works on a bare checkout: what it needs is installed into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo docs audit smoke pythons floors test coverage across bench peers instructions celery chaos chaos-planted schedules transactions fairness schemathesis lint page format typecheck mypy pyright generated clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

demo: $(VENV)/.runtime  ## Start the example app on an embedded SQLite database
	$(BIN)/python -m examples.demo

docs: $(VENV)/.dev  ## Build the documentation into build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# More workers than cores: many tests wait, for servers and for time. tests/conftest.py puts the files in order.
WORKERS ?= 3
# Without what is for a make that this one starts: tests start one too.
PYTEST := env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not long"
# Tests across rooms: most of what they run is in other processes, which are not measured.
ACROSS := $(addprefix tests/,benchmarks chaos contributing dashboards e2e ledger typing)
COVERED := $(filter-out $(ACROSS),$(patsubst %/,%,$(wildcard tests/*/))) $(wildcard tests/test_*.py)

test: lint typecheck $(VENV)/.packages  ## Run the linters, the type checkers and all tests
ifdef CI
	# Each test once: those of the rooms measured, the others not. Not side by side: a storm needs the machine for itself.
	# The second part runs whatever the first one says, so that one run names all that fails.
	failed=0; \
	$(PYTEST) --cov --cov-report=term $(COVERED) $(PYTEST_ARGS) || failed=1; \
	$(PYTEST) $(ACROSS) $(PYTEST_ARGS) || failed=1; \
	exit $$failed
else
	$(PYTEST) $(PYTEST_ARGS)
endif

coverage: $(VENV)/.dev $(VENV)/.packages  ## Run the tests of the rooms, and hold their branch coverage against its floor
	$(PYTEST) --cov --cov-report=term $(COVERED) $(PYTEST_ARGS)

across: $(VENV)/.dev $(VENV)/.packages  ## Run the tests that are not part of the coverage
	$(PYTEST) $(ACROSS) $(PYTEST_ARGS)

bench: $(VENV)/.dev $(VENV)/.packages peers  ## Measure every figure beside its reference
	@mkdir -p build
	$(BIN)/python -m benchmarks --json build/benchmarks.json $(BENCH_ARGS)

peers: build/peers/.installed  ## Install the libraries that the benchmarks compare with

build/peers/.installed: benchmarks/requirements.txt
	$(PYTHON) -m venv build/peers
	build/peers/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

instructions: $(VENV)/.dev $(VENV)/.packages  ## Count the instructions of one task, beside the baseline
	$(BIN)/python -m benchmarks.instructions --check $(INSTRUCTIONS_ARGS)

chaos: $(VENV)/.dev $(VENV)/.packages  ## Kill servers and workers under load, 200 times on each backend and arrangement
	@mkdir -p build
	$(BIN)/python -m tests.chaos --report build/chaos.json $(CHAOS_ARGS)

celery: $(VENV)/.dev $(VENV)/.packages  ## Kill each process of web servers with Celery, on each ledger and broker
	$(BIN)/python -m pytest tests/e2e/test_celery.py $(PYTEST_ARGS)

chaos-planted: $(VENV)/.dev $(VENV)/.packages  ## Check that the storm finds every planted fault, the long storms too
	$(BIN)/python -m pytest tests/chaos/test_planted.py $(PYTEST_ARGS)

schemathesis: $(VENV)/.dev $(VENV)/.packages  ## Send thousands of generated requests to each route, on two backends
	SCHEMATHESIS_CASES=$(or $(CASES),50) $(BIN)/python -m pytest -q -rP tests/web/test_generated_requests.py $(SCHEMATHESIS_ARGS)

schedules: $(VENV)/.dev $(VENV)/.packages  ## Kill three instances with schedules, for four minutes on each backend
	$(BIN)/python -m tests.chaos.schedules $(SCHEDULES_ARGS)

transactions: $(VENV)/.dev $(VENV)/.packages  ## Add 1,000 tasks in transactions on each database, and kill the processes at named points
	$(BIN)/python -m tests.e2e.transactions $(TRANSACTIONS_ARGS)

fairness: $(VENV)/.dev $(VENV)/.packages  ## Measure the shares that two workers with equal slots take of one queue, on each database
	$(BIN)/python -m tests.e2e.fairness $(FAIRNESS_ARGS)

lint: $(VENV)/.dev  ## Check style, formatting, the layers of the package, and its code for known kinds of security faults
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive taskflow_otel

smoke: $(VENV)/.dev  ## Try the wheel in fresh environments, with each extra alone, and the source distribution
	PYTHON=$(PYTHON) .ci/smoke $(SMOKE_ARGS)

pythons: $(VENV)/.dev $(VENV)/.packages  ## Run the core's tests with every other Python version that is to be had here
	.ci/pythons $(PYTHONS_ARGS)

floors: $(VENV)/.packages  ## Run each feature with the lowest versions that pyproject.toml allows
	PYTHON=$(PYTHON) .ci/floors

audit: $(VENV)/.dev  ## Compare the installed packages with the known vulnerabilities
	PYTHON=$(PYTHON) .ci/audit

page:  ## Check the types and the style of the page's JavaScript
	.ci/page

format: $(VENV)/.dev  ## Format the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

typecheck: mypy pyright  ## Check the types

mypy: $(VENV)/.dev
	$(BIN)/mypy

pyright: $(VENV)/.dev
	$(BIN)/pyright --pythonpath $(BIN)/python

generated: $(VENV)/.dev  ## Write what is generated from the code anew: pages and the script of words
	$(BIN)/python -m taskflow_otel.web.vocabulary_script
	$(BIN)/python -m taskflow_otel.exporters.signals_doc > docs/telemetry.md
	$(BIN)/python -m taskflow_otel.wire.problems_doc > docs/problems.md
	$(BIN)/python -m tests.client.twin
	$(BIN)/python -m tests.drop_in.page
	$(BIN)/python -m tests.cli.page
	$(BIN)/python -m tests.settings_page
	$(BIN)/python -m tests.rooms
	$(BIN)/python -m tests.e2e.walk
	$(BIN)/python -m dashboards.generate

clean:  ## Remove the virtual environment and every cache
	rm -rf $(VENV) build/audit build/floors build/peers build/pythons .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: pyproject.toml | $(VENV)/.created
	$(PIP) --editable '.[otel,worker]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.created
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.runtime

$(VENV)/.packages: tests/debian-packages.txt .ci/packages | $(VENV)/.created
	.ci/packages
	@touch $@
