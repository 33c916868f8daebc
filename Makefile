# Two commands from a bare Python ≥ 3.11: `make book` and `make test`. `make` alone lists the rest.
#
# Downloads are large because of torch; for its small CPU build:
#   export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt
# Which model the book is about, and how thoroughly: make book MODEL=gpt2 BASE= PROFILE=quick
BOOK := $(if $(MODEL),--model '$(MODEL)') $(if $(BASE),--base '$(BASE)') $(if $(PROFILE),--profile $(PROFILE)) \
        $(if $(CHAPTERS),--chapters $(CHAPTERS)) $(if $(JOBS),--jobs $(JOBS)) $(if $(FORCE),--force)
# Which cells of a record: make records NAME ONLY='seed=0 lr=0.001'; how many at once: JOBS=2
RUN := $(if $(JOBS),--jobs $(JOBS))
# Outputs and run counts go; cell ids and tags stay. .pre-commit-config.yaml says the same.
STRIP := --keep-id --extra-keys "metadata.language_info.version metadata.papermill cell.metadata.papermill"
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
# The words after `make records` name experiments; they are no targets.
NAMES := $(if $(filter records records-check records-rehearse,$(firstword $(MAKECMDGOALS))),$(wordlist 2,99,$(MAKECMDGOALS)))

.DEFAULT_GOAL := help
.PHONY: help install book test test-all records records-check records-rehearse lint format bench launch clean $(NAMES)

help:  ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Options of make book: MODEL=… BASE=… PROFILE=quick|default|full CHAPTERS=01,03 JOBS=2 FORCE=1"

install: $(STAMP)  ## install everything into .venv (the others do it when needed)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3 …" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making .venv with $$($(PYTHON) --version)"; $(PYTHON) -m venv .venv; }
	@echo "installing the pinned packages into .venv (minutes, the first time)"
	@$(PIP) torch  # first and alone, so that the pin decides the version and the index its build
	@$(PIP) --editable '.[book,dev]'
	@touch $@

book: $(STAMP)  ## run every chapter and render the book into _build/html
	@$(BIN)/python -m lfmlib.book build $(BOOK)

# One BLAS thread each: two processes with as many threads as cores wait for one another.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations 20

test: $(STAMP)  ## run the tests, without those marked slow (ARGS="tests/distribution/test_sketch.py -x")
	@$(TESTS) -m 'not slow' $(ARGS)

test-all: $(STAMP)  ## run every test, as CI does: the book is built and read in a browser, too
	@$(TESTS) $(ARGS)

records: $(STAMP)  ## measure a long experiment into book/records: make records NAME (without a name: list them)
	@$(BIN)/python -m lfmlib.records $(if $(NAMES),run,list) $(NAMES) $(if $(NAMES),$(RUN) $(if $(ONLY),--only $(ONLY)))

records-check: $(STAMP)  ## measure every recorded cell again, or those of NAME, and compare: may take hours
	@$(BIN)/python -m lfmlib.records check $(or $(NAMES),--all) $(RUN) $(if $(ONLY),--only $(ONLY))

records-rehearse: $(STAMP)  ## measure cells of all records, or of NAME, under other instruction sets
	@$(BIN)/python -m lfmlib.records rehearse $(NAMES) $(RUN)

$(NAMES):
	@:

lint: $(STAMP)  ## check code, types, notebooks and workflows
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright --pythonpath $(BIN)/python
	@$(if $(NOTEBOOKS),$(BIN)/nbstripout --verify $(STRIP) $(NOTEBOOKS))
	@sh .ci/actionlint .github/workflows/*.yml

format: $(STAMP)  ## put code and notebooks into shape
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .
	@$(if $(NOTEBOOKS),$(BIN)/nbstripout $(STRIP) $(NOTEBOOKS))

bench: $(STAMP)  ## measure speed, memory, book and tests against the limits
	@$(BIN)/python -m tests.benchmarks
	@$(BIN)/python -m tests.benchmarks.whole

launch: $(STAMP)  ## push the chapters that Colab opens to the branch launch of origin
	@$(BIN)/python -m lfmlib.book.launch

clean:  ## remove everything generated except .venv
	rm -rf _build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
