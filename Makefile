# make quickstart | test | lint | benchmark | clean
# Overridable: make test PYTHON=python3.12 VENV=/tmp/venv

PYTHON ?= python3
VENV ?= .venv
RESULTS ?= results
BIN := $(VENV)/bin
SOURCES := hpbench agents leaderboard

# setuptools keeps what it has built, and would put files that are gone by now into the next wheel.
INSTALL = rm -rf build && $(BIN)/pip --disable-pip-version-check install -c constraints.txt

# One thread per process, as there is one process per core.
TEST_ENVIRONMENT := CI=1 OMP_NUM_THREADS=1 MPLBACKEND=Agg

.PHONY: quickstart test lint benchmark clean

quickstart: $(BIN)/python
	$(INSTALL) .
	$(BIN)/hpbench run --suite quick-v0 --output $(RESULTS)
	$(BIN)/hpbench report --results $(RESULTS)/quick-v0

# pytest runs in its own folder, so that what it imports is the installed package and not the sources beside it.
test: $(BIN)/python
	$(INSTALL) --quiet ".[dev]"
	$(BIN)/pip check
	$(MAKE) --no-print-directory lint
	cd tests && $(TEST_ENVIRONMENT) $(abspath $(BIN))/pytest -n 2

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports --no-cache

benchmark: $(BIN)/python
	$(INSTALL) ".[sb3]"
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/dynamic_protocol.py
	$(BIN)/python benchmarks/overhead.py

clean:
	rm -rf build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find $(SOURCES) tests -name __pycache__ -prune -exec rm -rf {} +
	find $(SOURCES) -name '*.so' -delete

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] < (3, 13) else "HPBench needs Python 3.11 or 3.12. Try: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
