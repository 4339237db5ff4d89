# Every target works on a fresh clone with just Python (3.11 or newer), pip and make.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
CODE := pipeline stages labeling_ui tests benchmarks .ci

.PHONY: setup fmt lint types check test test-all browser-tools test-browser mutants demo demo-seeds clean

setup: $(STAMP)

# The constraints pin torch to one build; a plain range would bring the newest CUDA one.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

fmt: setup
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

lint: setup
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)

types: setup
	$(BIN)/mypy

check: lint types

# Two workers, one thread each: the suite is made for two cores.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not slow and not browser' -n 2

test-all: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not browser' -n 2

# Chromium and npm come from the distribution; root has them installed where they are missing.
CHROMIUM := $(shell command -v chromium)
NPM := $(shell command -v npm)
AXE := build/axe/node_modules/axe-core/axe.min.js

$(AXE):
	npm install --silent --no-save --no-audit --no-fund --ignore-scripts --prefix build/axe axe-core@4.14.1

browser-tools:
	test -n "$(CHROMIUM)" -a -n "$(NPM)" || \
	  { test "$$(id -u)" = 0 && apt-get update -q && apt-get install -qy chromium npm; } || \
	  { echo "Chromium and npm must be installed to run the browser tests. Install them."; exit 1; }
	$(MAKE) $(AXE)

# The labeling app in a real browser; pictures of its pages are left in build/screenshots.
test-browser: setup browser-tools
	OMP_NUM_THREADS=1 $(BIN)/pytest -m browser tests/browser

# Deliberate mistakes, one at a time, in copies of the code; a test must notice each.
mutants: setup
	$(BIN)/python -m tests.mutants --jobs 2

demo: setup
	$(BIN)/python -m stages.demo configs/tiny.yaml

demo-seeds: setup
	$(BIN)/python -m benchmarks.demo_seeds configs/tiny.yaml

clean:
	rm -rf .venv build dist *.egg-info runs .mypy_cache .ruff_cache .pytest_cache
