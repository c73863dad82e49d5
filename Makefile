# make demo and make test are all a fresh machine needs; both are quick the second time.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint format types docs gpu wheel bench peers clean

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: .venv/run.stamp ## set up, train the voxel experiment (minutes), say where its results are
	$(BIN)/python -m ddiff.train experiment=voxel_adaptive

# a file's tests share runs, so each file stays in one process; one thread each; bytecode is kept,
# since tests start many commands
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test: types ## set up, check types, test every room on the CPU, in a process a core (minutes)
	$(PYTEST) -m "not slow"

test-slow: .venv/dev.stamp ## the long tests: clusters, compilers, engines, kills; CI runs both
	$(PYTEST) -m slow

types: .venv/dev.stamp ## check types
	$(BIN)/pyright

lint: types ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/dev.stamp ## write the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/docs.stamp ## build the documentation into build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

gpu: ## on a machine with a GPU and ddiff installed: tests and benchmarks, ten minutes, into OUT
	$(PYTHON) experiments/gpu/measure.py

wheel: .venv/dev.stamp ## build the wheel into dist/
	rm -rf dist build
	$(BIN)/python -m build --wheel --no-isolation

bench: .venv/run.stamp ## measure the training step: framework against a bare loop, and the 64^3 levers
	$(BIN)/python experiments/training_step/measure.py

peers: .venv/dev.stamp ## make .venv-peers: diffusers and MONAI, which tests/interchange/test_peers.py compares with
	PYTHONPATH=experiments/peers $(BIN)/python -c "import surroundings; surroundings.prepared()"

clean: ## remove the environment and what was built (runs and data stay)
	rm -rf .venv build dist *.egg-info

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/run.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) install -q -c constraints.txt "setuptools>=77"
	$(PIP) install -q -c constraints.txt --no-build-isolation -e .
	@touch $@

.venv/dev.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) install -q -c constraints.txt "setuptools>=77"
	$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@ .venv/run.stamp

.venv/docs.stamp: .venv/dev.stamp
	$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[docs]'
	@touch $@
