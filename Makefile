# Two commands do all the set-up on a machine with git, make and Python 3.11 (with its venv module):
#   make up     the first application on http://127.0.0.1:8080/
#   make test   everything the tests need, then the tests
PYTHON ?= python3
# Files of tests that run at the same time; most of them wait for processes of their own.
TEST_WORKERS ?= 2
BIN := .venv/bin

.PHONY: up test lint bench actors clean

up: .venv/.runtime
	@exec $(BIN)/wasmhost up manifests/kvcounter.yaml

test: .venv/.dev
	@tests/packages.sh
	@exec $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.dev
	@exec $(BIN)/python -m benchmarks

actors: .venv/.runtime
	@tests/packages.sh
	@exec $(BIN)/python actors/build.py

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "wasmhost needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || \
		{ echo "Python's venv module is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }

.venv/.runtime: pyproject.toml | .venv/bin/python
	@echo "installing wasmhost and a NATS server into .venv" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[server]'
	@touch $@

.venv/.dev: pyproject.toml | .venv/bin/python
	@echo "installing wasmhost with its development tools into .venv" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ .venv/.runtime
