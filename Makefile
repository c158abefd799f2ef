# Everything that a newcomer needs: `make demo` and `make test` set up what they use, in a virtual environment of their own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# `make bench JSON=folder` keeps the figures of each benchmark there.
json = $(if $(JSON),--json $(JSON)/$@.json)

.PHONY: demo test test-long lint faults fuzz schemas docs pictures asyncapi tools lock dashboard run bench bench-throughput bench-latency bench-start bench-scale bench-peers bench-database \
	bench-xeducation bench-proof bench-reasons bench-partitions clean

demo: $(VENV)/.demo ## the whole system on this machine, with real changes going through
	@$(BIN)/leadstream demo

test: $(VENV)/.dev ## every test, on a real Kafka and a real Postgres where they can be had
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-long: $(VENV)/.dev ## the tests that take minutes: 10,000 letters and twenty kills, 60 interleavings on a real Kafka
	$(BIN)/python -m pytest -m long

lint: $(VENV)/.dev ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

SCHEDULES ?= 100
faults: $(VENV)/.dev ## exactly once under fire: seeded schedules of faults, each proved by its history; SCHEDULES=5 for fewer
	$(BIN)/python -m tests.faults --schedules $(SCHEDULES)

PAYLOADS ?= 200000
fuzz: $(VENV)/.dev ## mutated and made-up payloads through decode, features and scoring; PAYLOADS=20000 for fewer
	$(BIN)/python -m tests.faults.fuzz --payloads $(PAYLOADS)

schemas: $(VENV)/.dev ## every released schema compared with the present one
	$(BIN)/leadstream schemas check

docs: $(VENV)/.dev ## the site, into build/site; a link or page that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

pictures: $(VENV)/.dev ## docs/images, of 10,000 letters on a Kafka of their own; needs Chromium
	$(BIN)/python -m tests.pictures

asyncapi: $(VENV)/.dev ## schemas/asyncapi.yaml, after a schema or a topic has changed
	$(BIN)/python -m schemas.asyncapi

tools: ## the programs that check deploy/ and are not on PyPI, into .tools
	deploy/tools.sh

COMPILE = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command 'make lock'
lock: $(VENV)/.dev ## what the image installs, file by file, and its SBOM; after a dependency has changed
	$(COMPILE) --extra fast --extra otel --extra s3 --output-file deploy/requirements.txt pyproject.toml
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])' \
		| $(COMPILE) --output-file deploy/requirements-build.txt -
	$(BIN)/python -m deploy.sbom

dashboard: $(VENV)/.dev tools ## Grafana's dashboard from its table, and a look at it on a real Prometheus under load
	$(BIN)/python -m deploy.dashboard
	$(BIN)/python -m deploy.look

run: $(VENV)/.demo ## the consumer, with the settings of the environment and .env
	$(BIN)/leadstream run

bench-xeducation: $(VENV)/.dev ## the X Education leads, end to end, beside the reference figures
	$(BIN)/python -m benchmarks.xeducation

bench-proof: $(VENV)/.dev ## what the probabilities are worth on real leads that came later, in one table
	$(BIN)/python -m benchmarks.proof

bench-reasons: $(VENV)/.bench ## our reasons beside exact Shapley values, on the same forest
	$(BIN)/python -m benchmarks.reasons

bench-partitions: $(VENV)/.dev ## how a group shares a hundred partitions, and what it costs when a member comes or goes
	$(BIN)/python -m benchmarks.partitions $(json)

bench: ## every benchmark of speed, one after the other; the last line says which missed a bar
	@missed=; for each in throughput latency start scale peers database; do \
		$(MAKE) --no-print-directory bench-$$each || missed="$$missed $$each"; done; \
	if [ -n "$$missed" ]; then echo "a bar was missed by:$$missed"; exit 1; fi

bench-throughput: $(VENV)/.dev ## events a second, beside a copy of the bytes, a floor and the loop one writes first
	$(BIN)/python -m benchmarks.throughput $(json)

bench-latency: $(VENV)/.dev ## event to visible prediction at several loads, in an open loop
	$(BIN)/python -m benchmarks.latency --minutes 5 $(json)

bench-start: $(VENV)/.dev ## process start to the first visible prediction
	$(BIN)/python -m benchmarks.start $(json)

bench-scale: $(VENV)/.dev ## two processes, a backlog of a million, memory, 200 model swaps
	$(BIN)/python -m benchmarks.scale $(json)

bench-peers: $(VENV)/.peers ## the same work with Quix Streams, FastStream and Bytewax, beside ours
	$(BIN)/python -m benchmarks.peers $(json)

bench-database: $(VENV)/.dev ## states from Postgres beside states in the events
	$(BIN)/python -m benchmarks.database $(json)

clean: ## the virtual environment and what tools left behind
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Leadstream needs Python 3.11 or later: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	@echo "Installing Leadstream into $(VENV) (once)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[local]'
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
	@echo "Installing the peers of the benchmark into a folder of their own, $(VENV)/peers (once)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --upgrade --target $(VENV)/peers --requirement benchmarks/peers/requirements.txt
	@touch $@
