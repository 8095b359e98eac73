# For people: make demo (a minute or two), make demo-full (ten or more), make test, make drills.
# Each makes .venv if need be.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Containers often write no bytecode; every child and every worker would compile the rooms for itself.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo demo-full test drills lint types docs picture page check clean

demo: $(READY)
	$(BIN)/gristmill demo --out runs/demo

demo-full: $(READY)
	$(BIN)/gristmill demo --full --out runs/demo-full

PYTEST := $(BIN)/python -m pytest --numprocesses=logical --maxprocesses=8 --durations=10

test: $(READY)
	$(PYTEST) -m "not drill"

# Whole runs and trainings that are killed, or spread over processes and nodes: minutes more.
drills: $(READY)
	$(PYTEST) -m drill

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy gristmill

# The site, strict: a warning is an error. Look at docs/_build/index.html.
docs: $(READY)
	$(BIN)/python -m sphinx --builder html --nitpicky --fail-on-warning --keep-going --quiet docs docs/_build

# The pictures on the README and the site, of a finished run; needs chromium.
RUN ?= runs/demo
picture: $(READY)
	$(BIN)/python docs/picture.py $(RUN) docs/_static

# The files of the explorer's page, from its sources; needs node and npm.
page: $(READY)
	cd dags/explorer/page && npm ci --ignore-scripts && npm run build

check: lint types docs test drills

# Compiled at once, as pip does: compiling torch and ray takes longer than importing them.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
	  { echo "Python 3.11 or 3.12 is needed; say which with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "making $(VENV) and installing some 7 GB into it: a minute or two by uv, minutes by pip"
	@$(PYTHON) -m venv $(VENV)
	@if $(BIN)/python -m pip install --quiet uv && $(BIN)/uv pip install --quiet --compile-bytecode \
	    --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'; then :; \
	else \
	  echo "uv cannot be had, or cannot reach the packages; installing by pip"; \
	  $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'; \
	fi
	@touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache docs/_build
