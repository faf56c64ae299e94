# Everything here sets itself up: a Python of 3.11 or newer is enough, `make demo` and `make test` fetch the rest into .venv.
# GNU make 3.81 will do. All paths are relative, so the checkout may lie in a folder with spaces in its name.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint format public-names package mlflow setup-demo setup-dev clean

BIN := .venv/bin
JOBS ?= 2
ARGS ?=

# PYTHON=/path/to/python3.12 chooses the interpreter that .venv is made from.
export PYTHON
# No package is to look anything up over the network at import or while it runs.
export MLFLOW_DISABLE_TELEMETRY := true
export NO_ALBUMENTATIONS_UPDATE := 1

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

demo: setup-demo ## Train MaskDP and its rivals on real motion video, print the table (6 minutes on 2 cores).
	$(BIN)/pvision demo $(ARGS)

test: setup-dev ## Run all tests. Example: make test ARGS="tests/privacy -k ledger" JOBS=1
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: setup-dev ## Check format, style, types and who imports whom.
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m ruff check
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

format: setup-dev ## Bring all code into the house format and mend what can be mended by machine.
	$(BIN)/python -m ruff check --fix
	$(BIN)/python -m ruff format

public-names: setup-dev ## Rewrite the frozen list of public names after you added or removed one on purpose.
	$(BIN)/python tests/test_public_names.py --rewrite

package: setup-dev ## Build wheel and sdist into dist/ and try the wheel in an empty environment.
	bash .ci/package

mlflow: setup-demo ## Open the runs in the browser.
	$(BIN)/mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db $(ARGS)

setup-demo:
	@sh .ci/setup demo

setup-dev:
	@sh .ci/setup dev

clean: ## Remove .venv, builds and caches; your runs in mlruns/ stay.
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis pvision.egg-info
	find pvision callbacks datamodules recipes tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
