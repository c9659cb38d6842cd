# The two commands of the README: `make demo` and `make test`. Each makes .venv and installs what it needs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OLDEST ?= .venv-oldest

.PHONY: demo test test-all test-oldest suite suite-all lint types docs clean

demo: $(VENV)/.installed
	$(BIN)/svp demo

PYTEST := -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

# mypy, which uses one core, runs beside the tests, which often leave one idle.
test: $(VENV)/.installed-test lint
	@$(MAKE) --no-print-directory --jobs 2 types suite

suite: $(VENV)/.installed-test
	$(BIN)/python $(PYTEST) -m 'not exhaustive'

# Before a release: every method on every backend, clusters with killed workers, ...
test-all: $(VENV)/.installed-test lint
	@$(MAKE) --no-print-directory --jobs 2 types suite-all

suite-all: $(VENV)/.installed-test
	$(BIN)/python $(PYTEST) --hypothesis-profile random

# The same tests on the lowest versions of all dependencies, in an environment of their own.
test-oldest: $(OLDEST)/.installed-test
	$(OLDEST)/bin/python $(PYTEST) -m 'not exhaustive'

lint: $(VENV)/.installed-test
	$(BIN)/ruff check src tests examples
	$(BIN)/ruff format --check src tests examples

types: $(VENV)/.installed-test
	$(BIN)/mypy

# The documentation as a site that opens from the file system: site/index.html. A broken link is an error.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

$(BIN)/python $(OLDEST)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "svp needs Python 3.11 or newer, $(PYTHON) is %d.%d: make PYTHON=python3.11 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(@D:/bin=)

# Stamps: an install runs again only when pyproject.toml changes.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@ $(VENV)/.installed

$(OLDEST)/.installed-test: pyproject.toml constraints-oldest.txt | $(OLDEST)/bin/python
	$(OLDEST)/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) $(OLDEST) build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
