# `make demo` and `make test` work on a fresh machine: they make .venv and install what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all test-servers test-gpu lint bench clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,formats,remote,report,dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python pipelines/demo.py

# two at a time, each with one thread of its own: tests that start workers of their own would crowd a larger machine
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --durations 30

test-all: test test-servers

# What needs software that `make test` does without: dask-cuda (430 MB), run here on a stand-in driver, and MONAI and
# bioimageio.core (170 MB), whose networks are probed. bioimageio.core 0.11 pins a bioimageio.spec that pydantic 2.14 breaks.
test-servers: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[cuda13,outside]'
	$(BIN)/pip install --quiet --no-deps bioimageio.spec==0.5.14.3
	$(BIN)/python -m pytest -m servers

# On a machine with an NVIDIA GPU and a torch that uses it (`constraints.txt` names no build of torch).
test-gpu: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[cuda13]'
	$(BIN)/python -m pytest -m gpu

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/memory.py --repeats 3

clean:
	rm -rf $(VENV) demo-out .pytest_cache .mypy_cache .ruff_cache
