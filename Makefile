# Two commands on a fresh machine: `make demo` and `make test`.
# Each makes .venv and installs what it needs, with the versions of constraints.txt.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= 0

.PHONY: demo docs test versions lint types rooms format assets clean

demo: .venv/installed
	$(BIN)/orpo demo

# Two processes of one thread each are faster than one of two: most tests are small.
test: lint types rooms
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# The contract on the lowest and the newest transformers that pyproject.toml allows.
versions: .venv/installed-dev
	$(BIN)/python scripts/contract_on_versions.py

# The pages of docs/ and the API reference, to be read without a server: site/index.html.
docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-dev
	$(BIN)/mypy

rooms: .venv/installed-dev
	$(BIN)/lint-imports

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

assets: .venv/installed
	$(BIN)/python scripts/make_demo_assets.py

clean:
	rm -rf .venv site orpo-demo orpo-compare orpo-eval-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "orpo needs Python 3.11 or newer; say which with PYTHON=python3.12 make ..." >&2; exit 2; }
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(INSTALL) --editable '.[dev]'
	@touch $@
