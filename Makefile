# Every task has a target; `make help` lists them. Only `make servers`, `make venv` and cargo's
# first build need the network.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

PYTHON ?= python3
VENV ?= .venv
REDFLOE_CACHE ?= $(HOME)/.cache/redfloe
PYTEST_ARGS ?=
PYTEST_WORKERS ?= 2
BENCH_ARGS ?=
DEMO_ARGS ?=
FUZZ_TARGET ?= decode
FUZZ_SECONDS ?= 300
REPEAT ?= 10

# Under CI the checkout is new each time: what took long to compile must outlive it.
ifdef CI
export CARGO_TARGET_DIR ?= $(REDFLOE_CACHE)/target
endif

bin := $(abspath $(VENV))/bin
venv := $(VENV)/.stamp
built := $(VENV)/.built
oldest := $(shell sed -n 's/^dependencies = .*"polars>=\([0-9.]*\)".*/\1/p' pyproject.toml)
oldest_polars := $(abspath $(VENV))/polars-$(oldest)
sources := Cargo.toml Cargo.lock pyproject.toml README.md \
	$(shell find src python -type f -not -name '*.so' -not -path '*/__pycache__/*')

# With the variable set PyO3 does not link libpython, which a machine may not have. maturin sets it
# too. So `cargo test --features python` compiles the bindings but cannot call Python: pytest does.
export PYO3_BUILD_EXTENSION_MODULE := 1
export PYO3_PYTHON := $(bin)/python
export REDFLOE_CACHE

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: venv
venv: $(venv) ## the virtual environment, with all that development needs

$(venv): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=..." >&2; exit 1; }
	test -x $(bin)/python || $(PYTHON) -m venv $(VENV)
	$(bin)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(bin)/python -m pip install --quiet --group dev
	@touch $@

.PHONY: build
build: $(built) ## the release wheel into dist/, and into the environment

# The stamp is as old as the build's start: what changes meanwhile is built the next time.
$(built): $(venv) $(sources)
	@touch $@.new
	rm -f dist/*.whl
	$(bin)/maturin build --release --locked --interpreter $(bin)/python --out dist
	$(bin)/python -m pip install --quiet --force-reinstall --no-deps dist/*.whl
	$(bin)/python -m pip install --quiet dist/*.whl
	@mv $@.new $@

.PHONY: servers
servers: $(venv) ## the servers that the tests run against, into the cache
	$(bin)/python scripts/fetch_servers.py

.PHONY: demo
demo: build ## 27,004 real flights into a stream and back; DEMO_ARGS="--url redis://..." for your server
	$(bin)/python -m redfloe demo $(DEMO_ARGS)

.PHONY: fmt
fmt: $(venv) ## format Rust and Python, and mend what ruff can
	cargo fmt
	$(bin)/ruff check --fix-only .
	$(bin)/ruff format .

.PHONY: lint
lint: build ## formatting, clippy, rustdoc, ruff, mypy, stubtest; warnings are errors
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --all-targets --features python -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --quiet
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/python -m mypy.stubtest --mypy-config-file pyproject.toml redfloe

# The warning is the theme's, about the future of MkDocs; mkdocs.yml makes all others errors.
.PHONY: docs
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(venv) ## the documentation site, strictly, into site/
	$(bin)/mkdocs build --strict

.PHONY: test
test: servers lint docs test-rust test-python test-oldest ## everything that CI runs

.PHONY: test-rust
test-rust: $(venv) ## cargo test, without and with the feature python
	cargo test --locked
	cargo test --locked --features python

.PHONY: test-python
test-python: build ## pytest against the servers that are there; PYTEST_ARGS="-k ..." selects
	$(bin)/python -m pytest -n $(PYTEST_WORKERS) $(PYTEST_ARGS)

# One run that passes says little of races.
.PHONY: test-faults
test-faults: build ## the fault tests, REPEAT times in a row
	for run in $$(seq $(REPEAT)); do echo "run $$run of $(REPEAT)" && \
		$(bin)/python -m pytest -q -n $(PYTEST_WORKERS) tests/test_*faults.py \
		tests/test_consumer_reclaim.py $(PYTEST_ARGS) || exit; done

# Beside the environment's own Polars lies the oldest that pyproject.toml allows; nothing else
# differs, so there is no second environment to fill.
.PHONY: test-oldest
test-oldest: build | $(oldest_polars) ## what touches Polars, with the oldest that is allowed
	PYTHONPATH=$(oldest_polars) $(bin)/python -c \
		'import polars; assert polars.__version__ == "$(oldest)", polars.__version__'
	PYTHONPATH=$(oldest_polars) $(bin)/python -m pytest -n $(PYTEST_WORKERS) tests/test_types.py \
		tests/test_read.py tests/test_scan.py tests/test_pushdown.py tests/test_stream_reader.py

$(oldest_polars): | $(venv)
	$(bin)/python -m pip install --quiet --no-deps --target $@ 'polars==$(oldest)'

.PHONY: bench
bench: build ## side by side with the floor and with peers; writes docs/performance.md
	$(bin)/python benches/compare.py $(BENCH_ARGS)

.PHONY: fuzz
fuzz: ## fuzz the decoder for FUZZ_SECONDS; needs a nightly toolchain and cargo-fuzz
	mkdir -p fuzz/corpus/$(FUZZ_TARGET)
	cargo +nightly fuzz run $(FUZZ_TARGET) fuzz/corpus/$(FUZZ_TARGET) fuzz/seeds/$(FUZZ_TARGET) \
		-- -max_total_time=$(FUZZ_SECONDS)

.PHONY: sanitize
sanitize: export RUSTFLAGS := -Zsanitizer=address
sanitize: ## the decoder's tests under AddressSanitizer; needs a nightly toolchain
	cargo +nightly test --locked --target $(shell rustc -vV | sed -n 's/^host: //p') \
		--target-dir $(REDFLOE_CACHE)/target-asan --lib --test decoder

.PHONY: clean
clean: ## remove what was built here; the cache stays
	rm -rf $(VENV) dist site target .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
