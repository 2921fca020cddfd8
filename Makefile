# The first `make test` (or any other target) builds .venv; later calls reuse it until a manifest changes.

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/.installed
PLUGINS := $(sort $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml)))
SOURCES := kdcore scripts benchmarks $(wildcard $(addsuffix /src,$(PLUGINS)))

empty :=
space := $(empty) $(empty)
# Scripts import their neighbours by name.
export MYPYPATH := scripts:benchmarks:$(subst $(space),:,$(wildcard $(addsuffix /src,$(PLUGINS))))

.PHONY: help install demo test test-slow test-gpu test-deepspeed lint docs generate methods-table wheels check-wheels bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo            distil a small network on the digits data"
	@echo "make test            the tests, but for the slow ones and those that need a GPU"
	@echo "make test-slow       those that start many processes or compile"
	@echo "make test-gpu        the tests that need a GPU"
	@echo "make test-deepspeed  install DeepSpeed into .venv and run the tests that need it"
	@echo "make lint            ruff and mypy"
	@echo "make docs            the documentation, into site/"
	@echo "make generate        rewrite what is generated: docs/reference/, docs/methods.md, kdcore/catalogue.json, quoted figures"
	@echo "make methods-table   measure what each method does on digits: docs/methods.json"
	@echo "make wheels          every package, into dist/"
	@echo "make check-wheels    install those wheels apart from the checkout and run the example"
	@echo "make bench           the benchmarks"
	@echo "make clean           remove what builds and checks left behind"

install: $(STAMP)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "kdcore needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

# torch comes by pip, which honours a machine's own choice of build (CPU or CUDA); uv is quicker for the rest.
# The build backends are installed once, so that no package fetches its own.
$(STAMP): $(BIN)/python pyproject.toml constraints.txt $(addsuffix /pyproject.toml,$(PLUGINS))
	$(BIN)/python -m pip install -q -c constraints.txt torch uv
	$(BIN)/uv pip install -q --python $(BIN)/python hatchling editables "uv_build>=0.8,<1"
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt --no-build-isolation --group dev --group docs \
		-e . $(addprefix -e ,$(PLUGINS))
	@touch $@

demo: $(STAMP)
	$(BIN)/kd run examples/digits/kd.yaml

test: $(STAMP)
	$(BIN)/pytest -n $(WORKERS) -m "not gpu and not slow"

test-slow: $(STAMP)
	$(BIN)/pytest -n $(WORKERS) -m "slow and not gpu"

test-gpu: $(STAMP)
	$(BIN)/pytest -m gpu

test-deepspeed: $(STAMP)
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e ".[deepspeed]"
	$(BIN)/pytest tests/engine/test_deepspeed.py tests/config/test_deepspeed.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES)

docs: generate
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict

generate: $(STAMP)
	$(BIN)/python scripts/catalogue.py
	$(BIN)/python scripts/docs_reference.py
	$(BIN)/python scripts/docs_methods.py
	$(BIN)/python scripts/figures.py

# Only what is missing or has changed is run, and after an interruption what is left. For some methods alone:
# scripts/methods_table.py --methods kd,at; for a list of what would be run: --check
methods-table: $(STAMP)
	$(BIN)/python scripts/methods_table.py --jobs $(WORKERS)
	$(BIN)/python scripts/docs_methods.py
	$(BIN)/python scripts/figures.py

wheels: $(STAMP)
	rm -rf dist
	for package in . $(PLUGINS); do \
		$(BIN)/uv build -q --python $(BIN)/python --no-build-isolation --wheel --out-dir dist $$package || exit 1; \
	done

check-wheels: wheels
	$(BIN)/python scripts/check_wheels.py dist

bench: $(STAMP)
	for benchmark in benchmarks/*.py; do echo "== $$benchmark"; $(BIN)/python $$benchmark || exit 1; done

clean:
	rm -rf dist build site .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
