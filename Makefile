# make quickstart | test | lint | benchmark | clean
# Overridable: make test PYTHON=python3.12 VENV=/tmp/venv

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := hpbench agents leaderboard
RESULTS ?= results

# The tests run against the installed wheel: the working folder must not be on sys.path, and one process per core needs one
# thread per process.
TEST_ENV := CI=1 PYTHONSAFEPATH=1 OMP_NUM_THREADS=1 MPLBACKEND=Agg

.PHONY: quickstart test lint benchmark clean

quickstart: $(BIN)/python
	rm -rf build
	$(BIN)/pip install -c constraints.txt .
	$(BIN)/hpbench run --suite quick-v0 --output $(RESULTS)
	$(BIN)/hpbench report --results $(RESULTS)/quick-v0

test: $(BIN)/python
	rm -rf build
	$(BIN)/pip install -q -c constraints.txt ".[dev]"
	$(BIN)/pip check
	$(MAKE) --no-print-directory lint
	$(TEST_ENV) $(BIN)/pytest -n 2

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports --no-cache

benchmark: $(BIN)/python
	rm -rf build
	$(BIN)/pip install -c constraints.txt ".[sb3]"
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/speed.py

clean:
	rm -rf build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find $(SOURCES) tests -name __pycache__ -prune -exec rm -rf {} +
	find $(SOURCES) -name '*.so' -delete

$(BIN)/python:
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] < (3, 13); sys.exit(None if ok else "HPBench needs Python 3.11 or 3.12: make ... PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
