# `make demo` and `make test` set up what they use, in a virtual environment of their own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# `make bench JSON=folder` keeps the figures of each benchmark there.
json = $(if $(JSON),--json $(JSON)/$@.json)

# The code of this folder runs, also where the environment has a copy of an older version.
export PYTHONPATH := $(CURDIR)
# Each process would compile all modules again without files of byte code.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo unit test test-rest test-long test-all lint faults fuzz schemas docs pictures \
	asyncapi tools lock audit dashboard run bench bench-throughput bench-latency bench-start \
	bench-scale bench-peers bench-database bench-xeducation bench-proof bench-strangers \
	bench-reasons bench-partitions bench-compression clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## run the whole system on this machine, with simulated changes
	@$(BIN)/leadstream demo

# T= names files or tests: `make test T=tests/unit/test_settings.py`.
PYTEST := $(BIN)/python -m pytest
WORKERS ?= 4
# Whole files go to the workers, those of brokers first: they wait more than they compute.
PARALLEL := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
QUICK = --hypothesis-profile quick --ignore tests/deploy -m 'not ($(REST) or slow or long)'
REST := faults or deploy or browser

unit: $(VENV)/.dev ## run the tests that need no broker, in under a minute
	$(PYTEST) $(PARALLEL) --hypothesis-profile quick \
		-m 'not (slow or broker or postgres or data or long)' $(or $(T),tests/unit)

test: $(VENV)/.dev ## run the tests, on a real Kafka and Postgres where possible; T=FILE for a part
	$(if $(T),$(PYTEST) -m 'not long' $(T),$(PYTEST) $(PARALLEL) $(QUICK))

test-rest: $(VENV)/.dev ## run fault schedules, the checks of deploy/, the browser
	$(PYTEST) $(PARALLEL) -m '($(REST)) and not long'

test-long: $(VENV)/.dev ## run all examples of Hypothesis, and the tests that take minutes each
	$(PYTEST) $(PARALLEL) -m 'long or slow or (hypothesis and not ($(REST)))'

test-all: test test-rest test-long ## run every test

lint: $(VENV)/.dev ## check format, lint, types and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m tests.style

SCHEDULES ?= 100
faults: $(VENV)/.dev ## run seeded schedules of faults and check each history; SCHEDULES=5 for fewer
	$(BIN)/python -m tests.faults --schedules $(SCHEDULES)

PAYLOADS ?= 200000
fuzz: $(VENV)/.dev ## try odd inputs at every boundary; PAYLOADS=20000 for fewer
	$(BIN)/python -m tests.faults.fuzz --payloads $(PAYLOADS)

schemas: $(VENV)/.dev ## compare every released schema with the current one
	$(BIN)/leadstream schemas check

docs: $(VENV)/.dev ## build the site into build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

pictures: $(VENV)/.dev ## take the screenshots in docs/images; needs Chromium
	$(BIN)/python -m tests.pictures

asyncapi: $(VENV)/.dev ## write schemas/asyncapi.yaml after a schema or a topic has changed
	$(BIN)/python -m schemas.asyncapi

tools: ## install the programs that check deploy/ and are not on PyPI, into .tools
	deploy/tools.sh

COMPILE = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --custom-compile-command 'make lock'
lock: $(VENV)/.dev ## lock what the image installs, and write its SBOM
	$(COMPILE) --extra fast --extra history --extra otel --extra s3 \
		--output-file deploy/requirements.txt pyproject.toml
	$(BIN)/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb")); \
		print(*project["build-system"]["requires"])' \
		| $(COMPILE) --output-file deploy/requirements-build.txt -
	$(BIN)/python -m deploy.sbom

audit: $(VENV)/.dev ## look up the locked packages in the index's list of vulnerabilities
	$(BIN)/python -m deploy.audit

dashboard: $(VENV)/.dev tools ## write Grafana's dashboard and check it on a real Prometheus
	$(BIN)/python -m deploy.dashboard
	$(BIN)/python -m deploy.look

run: $(VENV)/.demo ## run the consumer with the settings of the environment and .env
	$(BIN)/leadstream run

bench-xeducation: $(VENV)/.dev ## compare X Education leads, end to end, with the reference figures
	$(BIN)/python -m benchmarks.xeducation

bench-proof: $(VENV)/.dev ## measure the probabilities on real leads of a later period
	$(BIN)/python -m benchmarks.proof

bench-strangers: $(VENV)/.dev ## compare with scikit-learn on files that mislead a training
	$(BIN)/python -m benchmarks.strangers

bench-reasons: $(VENV)/.bench ## compare our reasons with exact Shapley values on the same forest
	$(BIN)/python -m benchmarks.reasons

bench-partitions: $(VENV)/.dev ## measure how a group shares 100 partitions, and a rebalance
	$(BIN)/python -m benchmarks.partitions $(json)

bench-compression: $(VENV)/.dev ## measure what each compression of predictions costs and saves
	$(BIN)/python -m benchmarks.compression $(json)

bench: ## run every speed benchmark; the last line names those that missed a bar
	@missed=; for each in throughput latency start scale peers database; do \
		$(MAKE) --no-print-directory bench-$$each || missed="$$missed $$each"; done; \
	if [ -n "$$missed" ]; then echo "a bar was missed by:$$missed"; exit 1; fi

bench-throughput: $(VENV)/.dev ## measure events a second against a copy, a floor and a simple loop
	$(BIN)/python -m benchmarks.throughput $(json)

bench-latency: $(VENV)/.dev ## measure event to visible prediction at several loads, in an open loop
	$(BIN)/python -m benchmarks.latency --minutes 5 $(json)

bench-start: $(VENV)/.dev ## measure process start to the first visible prediction
	$(BIN)/python -m benchmarks.start $(json)

bench-scale: $(VENV)/.dev ## measure two processes, a backlog of a million, memory, 200 model swaps
	$(BIN)/python -m benchmarks.scale $(json)

bench-peers: $(VENV)/.peers ## compare with the same work in Quix Streams, FastStream and Bytewax
	$(BIN)/python -m benchmarks.peers $(json)

bench-database: $(VENV)/.dev ## compare states from Postgres with states in the events
	$(BIN)/python -m benchmarks.database $(json)

clean: ## remove the virtual environment and what tools left behind
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and \
		sys.exit("Leadstream needs Python 3.11 or later: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	@echo "Installing Leadstream into $(VENV) (once)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[history,local]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@echo "Installing Leadstream and its tests' tools into $(VENV) (once)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.bench: $(VENV)/.dev
	@echo "Installing shap into $(VENV) (once)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

$(VENV)/.peers: benchmarks/peers/requirements.txt | $(VENV)/.dev
	@echo "Installing the peers of the benchmark into $(VENV)/peers (once)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --upgrade \
		--target $(VENV)/peers --requirement benchmarks/peers/requirements.txt
	@touch $@
