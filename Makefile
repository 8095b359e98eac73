# Two commands for people: make demo, make test. Each makes .venv if need be.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint types docs picture check clean

demo: $(READY)
	$(BIN)/gristmill demo --out runs/demo

test: $(READY)
	$(BIN)/python -m pytest --durations=10

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy gristmill

# The site, strict: a warning is an error. Look at docs/_build/index.html.
docs: $(READY)
	$(BIN)/python -m sphinx --builder html --nitpicky --fail-on-warning --keep-going --quiet docs docs/_build

# The picture of a report on the README and the site, of a finished run; needs chromium.
RUN ?= runs/demo
picture: $(READY)
	$(BIN)/python docs/picture.py $(RUN) docs/_static/report.png

check: lint types docs test

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
	  { echo "Python 3.11 or 3.12 is needed; say which with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache docs/_build
