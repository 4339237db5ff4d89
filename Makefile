# Every target works on a fresh clone with just Python (3.11 or newer), pip and make.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
CODE := pipeline stages labeling_ui tests benchmarks .ci

.PHONY: setup fmt lint types check test test-all mutants demo demo-seeds clean

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
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not slow' -n 2

test-all: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

# Deliberate mistakes, one at a time, in copies of the code; a test must notice each.
mutants: setup
	$(BIN)/python -m tests.mutants --jobs 2

demo: setup
	$(BIN)/python -m stages.demo configs/tiny.yaml

demo-seeds: setup
	$(BIN)/python -m benchmarks.demo_seeds configs/tiny.yaml

clean:
	rm -rf .venv build dist *.egg-info runs .mypy_cache .ruff_cache .pytest_cache
