PYTHON ?= python3
BIN := .venv/bin
# Where it is set, each of some hundred processes would compile the package, and each worker all tests, anew.
unexport PYTHONDONTWRITEBYTECODE
# Long files first (tests/conftest.py), so that no core is idle at the end.
SUITE := --dist loadfile --no-loadscope-reorder $(foreach room,scale runners readers,--ignore tests/$(room))
FAST_SUITE := $(SUITE) --ignore tests/e2e --ignore tests/ui

.PHONY: demo test test-fast coverage mutants test-versions test-runners test-readers test-scale pictures docs build lint soak bench

# The virtual environment makes itself, and again when what it must hold changes.
.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: .venv/.installed
	$(BIN)/python -m flows.demo

test: .venv/.installed
	tests/ui/install-browser
	$(BIN)/python -m pytest $(SUITE) -n 5

# While you write: all that needs no Prefect server and no process of its own.
test-fast: .venv/.installed
	$(BIN)/python -m pytest $(FAST_SUITE) -n 2 -q -m "not slow"

# Lines and branches of the package that the fast suite takes; below 95 % it is an error.
coverage: .venv/.installed
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(FAST_SUITE) -n 4
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Changes of the code that no test notices; CONTRIBUTING.md says which may stay.
mutants: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'mutmut>=3.8,<4'
	rm -rf mutants
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/mutmut run
	$(BIN)/mutmut results

# The lowest and the highest versions of what the package depends on, on each Python, or on those of PYTHONS.
test-versions: .venv/.installed
	$(BIN)/python -m tests.versions $(PYTHONS)

# The tasks on Dask and on Ray.
test-runners: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,runners]'
	$(BIN)/python -m pytest tests/runners

# JUnit and CTRF files of gates, by what others have written to read such files; needs npm.
test-readers: .venv/.installed
	npm install --prefix tests/readers --ignore-scripts --no-audit --no-fund --no-package-lock --silent
	$(BIN)/python -m pytest tests/readers

# Gates on more than one machine, as deployments/compose.yaml has it; as root.
test-scale: .venv/.installed
	tests/scale/install-servers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,scale]'
	$(BIN)/python -m tests.scale

# The site, into site/; a warning is an error.
docs: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# The packages, into dist/, as an index would take them.
build: .venv/.installed
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	$(BIN)/python -m twine check --strict dist/*

# The pictures of the documentation, from the pages that tests/ui looks at.
pictures: .venv/.installed
	tests/ui/install-browser
	QATECH_PICTURES=docs/images $(BIN)/python -m pytest tests/ui

lint: .venv/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Gates under faults and kills; as root.
soak: .venv/.installed
	tests/scale/install-servers
	$(BIN)/python -m tests.soak

bench: .venv/.installed
	$(BIN)/python -m tests.bench
