# Two commands on a fresh machine that has Python 3.11 and make: `make demo` and `make test`. Each makes .venv when it is missing.

PYTHON ?= $(firstword $(foreach p,python3.11 python3 python,$(if $(shell $(p) -c 'import sys; print(sys.version_info[:2] == (3, 11) or "")' 2>/dev/null),$(p))))
JOBS ?= 2
BIN := .venv/bin
READY := .venv/.ready
BUSY := .venv/.installing

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint types venv clean

help:  ## What there is
	@sed -n 's/^\([a-z]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: $(READY)  ## The whole way on a bundled network, a few minutes; pictures and a table in demo/ (ARGS: options of compress demo)
	$(BIN)/python -m compress demo $(ARGS)

test: lint types  ## Lint, types, tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) $(ARGS)

lint: $(READY)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## mypy --strict
	$(BIN)/mypy

venv: $(READY)  ## Only install

clean:  ## Remove .venv, caches and what the demo made
	rm -rf .venv build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Left behind by an interrupted install, BUSY says that .venv cannot be trusted: it is made anew.
$(READY): setup.cfg pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 found; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@if test -e $(BUSY) || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then rm -rf .venv && $(PYTHON) -m venv .venv; fi
	@echo 'installing into .venv: a few minutes the first time'
	@touch $(BUSY)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@rm $(BUSY) && touch $(READY)
