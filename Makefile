PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint soak

# The virtual environment makes itself, and again when what it must hold changes.
.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: .venv/.installed
	$(BIN)/python -m flows.demo

test: .venv/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/e2e
	$(BIN)/python -m pytest tests/e2e

lint: .venv/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

soak: .venv/.installed
	$(BIN)/python -m tests.soak
