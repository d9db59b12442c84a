PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test pictures lint soak bench

# The virtual environment makes itself, and again when what it must hold changes.
.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: .venv/.installed
	$(BIN)/python -m flows.demo

test: .venv/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/e2e --ignore tests/ui
	$(BIN)/python -m pytest tests/e2e
	tests/ui/install-browser
	$(BIN)/python -m pytest tests/ui

# The pictures of the README, from the pages that tests/ui looks at.
pictures: .venv/.installed
	tests/ui/install-browser
	QATECH_PICTURES=docs/images $(BIN)/python -m pytest tests/ui

lint: .venv/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

soak: .venv/.installed
	$(BIN)/python -m tests.soak

bench: .venv/.installed
	$(BIN)/python -m tests.bench
