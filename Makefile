# Every task has a target; `make help` lists them. Only `make servers`, `make peers`, `make venv` and
# cargo's first build need the network.

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
engines := $(abspath $(VENV))/engines
tools := $(VENV)/.tools
venv := $(VENV)/.stamp
built := $(VENV)/.built
pip := $(bin)/python -m pip install --quiet --constraint constraints.txt
engines_pip := $(engines)/bin/python -m pip install --quiet --constraint constraints-engines.txt
oldest := $(shell sed -n 's/^dependencies = .*"polars>=\([0-9.]*\)".*/\1/p' pyproject.toml)
expressions := $(abspath $(VENV))/expressions
oldest_polars := $(abspath $(VENV))/polars-$(oldest)
polars_tests := $(wildcard $(addprefix tests/test_, types*.py schema*.py inference*.py ids.py \
	exports.py payloads*.py frames*.py read*.py last.py scan*.py pushdown*.py stream_reader*.py \
	write.py write_ids.py odd_fields.py replay.py progress.py many_streams.py windows.py))
sources := Cargo.toml Cargo.lock pyproject.toml README.md \
	$(shell find src python -type f -not -name '*.so' -not -path '*/__pycache__/*')
expressions_target := $(REDFLOE_CACHE)/expressions-target
expression_sources := Cargo.toml build.rs $(shell find src expressions -type f -not -name '*.so' \
	-not -path '*/target/*' -not -path '*/__pycache__/*')

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

# What builds the wheel, and no more: `make demo` needs nothing else.
$(tools): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=..." >&2; exit 1; }
	@echo "==> $(VENV): a virtual environment with maturin, which builds the wheel"
	@test -x $(bin)/python || $(PYTHON) -m venv $(VENV)
	@$(pip) pip
	@$(pip) --group build
	@touch $@

$(venv): $(tools)
	@echo "==> $(VENV): what tests and documentation need, 1 GB (a minute)"
	@$(pip) --group dev
	@touch $@

# On purpose, and followed by `make test`: a new version of somebody's library may break ours.
.PHONY: lock
lock: $(tools) ## the newest versions that fit together, into constraints.txt
	@$(pip) --group lock
	$(bin)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
		--custom-compile-command 'make lock' --no-annotate \
		pyproject.toml --group dev --group lock --group wheel --extra demo --output-file constraints.txt
	$(bin)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
		--custom-compile-command 'make lock' --no-annotate \
		pyproject.toml --group engines --output-file constraints-engines.txt

.PHONY: build
build: $(built) ## the release wheel into dist/, and into the environment

# The stamp is as old as the build's start: what changes meanwhile is built the next time.
$(built): $(tools) $(sources)
	@touch $@.new
	@rm -f dist/*.whl
	@echo "==> the release wheel: 200 crates are compiled (3 to 8 minutes the first time)"
	$(bin)/maturin build --release --locked --interpreter $(bin)/python --out dist
	@echo "==> the wheel, Polars and what the demo needs, into $(VENV)"
	@$(pip) --force-reinstall --no-deps dist/*.whl
	@$(pip) "$$(echo dist/*.whl)[demo]"
	@mv $@.new $@

# zig links against an old C library, which this machine need not have.
.PHONY: wheel
wheel: export PATH := $(bin):$(PATH):$(REDFLOE_CACHE)/servers/redis-8.10/bin
wheel: $(venv) servers ## the wheel that is published, for any Linux since 2018, into dist/publish; looked through and tried
	@$(pip) --group wheel
	@rm -rf dist/publish
	$(bin)/maturin build --release --locked --strip --zig --compatibility manylinux_2_28 \
		--target $$(rustc -vV | sed -n 's/^host: //p') --interpreter $(bin)/python --out dist/publish
	$(bin)/python scripts/check_wheel.py dist/publish/*.whl
	$(bin)/python scripts/try_wheel.py dist/publish/*.whl

.PHONY: servers
servers: $(tools) ## the servers that the tests run against, into the cache
	$(bin)/python scripts/fetch_servers.py

.PHONY: demo
demo: build ## 27,004 real flights into a stream and back; DEMO_ARGS="--url redis://..." for your server
	@echo "==> redfloe demo"
	@$(bin)/python -m redfloe demo $(DEMO_ARGS)

.PHONY: fmt
fmt: $(venv) ## format Rust and Python, and mend what ruff can
	cargo fmt
	cargo fmt --manifest-path expressions/Cargo.toml
	$(bin)/ruff check --fix-only .
	$(bin)/ruff format .

.PHONY: lint
lint: $(venv) build ## formatting, clippy, rustdoc, ruff, mypy, stubtest; warnings are errors
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --all-targets --features python -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --quiet
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/python -m mypy.stubtest --mypy-config-file pyproject.toml \
		--allowlist scripts/stubtest-allowlist.txt redfloe
	$(bin)/python scripts/check_licences.py
	$(bin)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(bin)/zizmor --offline --quiet .github/workflows

# The warning is the theme's, about the future of MkDocs; mkdocs.yml makes all others errors.
.PHONY: docs
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(venv) ## the documentation site, strictly, into site/
	$(bin)/mkdocs build --strict
	! grep -rlE '<script[^>]* src="https?:|<link[^>]*"stylesheet"[^>]* href="https?:' site --include='*.html'
	test -s site/search/search_index.js # a browser loads it from disk, unlike the JSON beside it

.PHONY: test
test: servers lint docs test-rust test-python ## lint, docs, and all tests but the slow ones and those on engines

.PHONY: test-rust
test-rust: $(tools) ## cargo test, without and with the feature python
	cargo test --locked
	cargo test --locked --features python

# pytest-xdist may wait for ever once it has replaced a process that crashed within a group.
.PHONY: test-python
test-python: $(venv) build ## pytest against the servers that are there; PYTEST_ARGS="-k ..." selects
	$(bin)/python -m pytest -n $(PYTEST_WORKERS) --dist loadgroup --max-worker-restart 0 $(PYTEST_ARGS)

# Engines pin much that we do not, so they have an environment of their own, and constraints of their own.
# One process runs all tests of Spark, because to start it takes longer than most of them; another those of
# the rest.
.PHONY: test-engines
test-engines: servers $(engines)/.wheel ## pytest on real engines (Spark, which needs Java 17): eight minutes at most
	@command -v java >/dev/null || { echo "Java is needed: apt-get install default-jre-headless" >&2; exit 1; }
	$(engines)/bin/python -m pytest -n $(PYTEST_WORKERS) --dist loadgroup --max-worker-restart 0 \
		tests/engines $(PYTEST_ARGS)

$(engines)/.stamp: pyproject.toml constraints-engines.txt | $(tools)
	@echo "==> $(engines): the engines, 2 GB (two minutes)"
	@test -x $(engines)/bin/python || $(PYTHON) -m venv $(engines)
	@$(engines_pip) pip
	@$(engines_pip) --group engines
	@touch $@

$(engines)/.wheel: $(engines)/.stamp $(built)
	@$(engines_pip) --force-reinstall --no-deps dist/*.whl
	@touch $@

# A crate with a lockfile and a target of its own, and a package in a folder of its own: other builds and
# other tests see nothing of it.
.PHONY: expressions
expressions: $(expressions)/.wheel ## the wheel of redfloe-expressions, into dist/expressions

$(expressions)/.wheel: $(tools) $(expression_sources)
	@mkdir -p $(expressions) && touch $@.new
	@rm -rf dist/expressions
	@echo "==> the wheel of redfloe-expressions: 180 crates are compiled (3 to 8 minutes the first time)"
	$(bin)/maturin build --release --locked --manifest-path expressions/Cargo.toml \
		--target-dir $(expressions_target) --interpreter $(bin)/python --out dist/expressions
	@$(pip) --upgrade --no-deps --target $(expressions) dist/expressions/*.whl
	@mv $@.new $@

.PHONY: test-expressions
test-expressions: $(venv) servers build expressions | $(oldest_polars) ## its Rust, and pytest on the newest and the oldest Polars
	cargo fmt --check --manifest-path expressions/Cargo.toml
	cargo clippy --locked --release --manifest-path expressions/Cargo.toml \
		--target-dir $(expressions_target) -- -D warnings
	for path in $(expressions) $(expressions):$(oldest_polars); do \
		PYTHONPATH=$$path $(bin)/python -m pytest tests/expressions $(PYTEST_ARGS) || exit; done

# What waits, kills processes again and again, or moves much data.
.PHONY: test-slow
test-slow: $(venv) build ## the tests that take more than some seconds each
	$(bin)/python -m pytest -m slow -n $(PYTEST_WORKERS) --dist loadgroup --max-worker-restart 0 $(PYTEST_ARGS)

# One run that passes says little of races.
.PHONY: test-faults
test-faults: $(venv) build ## the fault tests, REPEAT times in a row
	for run in $$(seq $(REPEAT)); do echo "run $$run of $(REPEAT)" && \
		$(bin)/python -m pytest -q -n $(PYTEST_WORKERS) tests/test_*faults.py \
		tests/test_consumer_reclaim.py -m 'not torture' $(PYTEST_ARGS) || exit; done

# How an interpreter ends differs between versions; abi3 has one wheel for all.
.PHONY: test-exits
test-exits: $(venv) build ## the ends of the interpreter, on each Python from 3.11 to 3.14 that is there
	set -e; for version in 3.11 3.12 3.13 3.14; do \
		python=$$(ls $(HOME)/.pyenv/versions/$$version.*/bin/python 2>/dev/null | tail -n 1); \
		python=$${python:-$$(command -v python$$version || true)}; \
		"$${python:-false}" -c '' 2>/dev/null || { echo "Python $$version is not there"; continue; }; \
		there=$(abspath $(VENV))/exits-$$version; \
		test -x $$there/bin/python || "$$python" -m venv $$there; \
		$$there/bin/python -m pip install --quiet -c constraints.txt hypothesis psutil pytest \
			pytest-asyncio pytest-timeout redis trustme uvloop polars; \
		$$there/bin/python -m pip install --quiet --force-reinstall --no-deps dist/*.whl; \
		echo "Python $$version" && $$there/bin/python -m pytest -q -m 'not torture' tests/test_exits.py $(PYTEST_ARGS); \
	done

# Minutes for each server: REDFLOE_TORTURE_SECONDS of fire, and then what the workers need to finish.
.PHONY: torture
torture: test-faults ## fault tests REPEAT times, then workers killed, frozen and cut off for minutes
	cargo test --locked --release --lib process::model -- --ignored --nocapture
	$(bin)/python -m pytest -q -s -m torture -n 0 tests/torture $(PYTEST_ARGS)

# Beside the environment's own Polars lies the oldest that pyproject.toml allows; nothing else
# differs, so there is no second environment to fill.
.PHONY: test-oldest
test-oldest: $(venv) build | $(oldest_polars) ## what touches Polars, with the oldest that is allowed
	PYTHONPATH=$(oldest_polars) $(bin)/python -c \
		'import polars; assert polars.__version__ == "$(oldest)", polars.__version__'
	PYTHONPATH=$(oldest_polars) $(bin)/python -m pytest -n $(PYTEST_WORKERS) $(polars_tests)

$(oldest_polars): | $(tools)
	$(bin)/python -m pip install --quiet --no-deps --target $@ 'polars==$(oldest)'

# Its licence is the GPL: it runs beside the bench, as a user's program, and nothing may need it.
peer := $(REDFLOE_CACHE)/peers/atomic-redis-streams
.PHONY: peers
peers: $(peer)/.stamp ## what `make bench` stands beside where it is installed, in an environment of its own

$(peer)/.stamp:
	$(PYTHON) -m venv $(peer)
	$(peer)/bin/python -m pip install --quiet atomic-redis-streams==0.1.0
	@touch $@

.PHONY: bench
bench: $(venv) build ## side by side with the floor and with peers; writes docs/performance.md
	$(bin)/python benches/compare.py $(BENCH_ARGS)

.PHONY: bench-engines
bench-engines: servers $(engines)/.wheel ## the same on engines: Spark, Daft, Ray; writes docs/performance.md
	$(engines)/bin/python benches/engines.py $(BENCH_ARGS)

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
