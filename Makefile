# `make demo` and `make test` do all set-up by themselves; `make help` lists the commands.
PYTHON ?= python3
VENV := .venv
MELTANO := .venv-meltano
# A public target with old pins of its own, which tests pipe into.
JSONL := .venv-jsonl
AUDIT := .venv-audit
PIP := -m pip install --quiet --disable-pip-version-check

# Tests mostly wait for the processes they start, so two at a time suit two cores.
WORKERS := 2
ARGS :=
SEEDS := 1000
JOBS := 2

.DEFAULT_GOAL := help
.PHONY: help demo bench simulate test test-long lint words format generate audit clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed $(MELTANO)/.installed  ## run both directions against a local Actito and Didomi, and show what happened
	@$(VENV)/bin/python scripts/demo.py

test: lint $(MELTANO)/.installed $(JSONL)/.installed  ## run the linter, the type checker and all tests
	$(VENV)/bin/python -m pytest --numprocesses $(WORKERS) --dist loadgroup

simulate: $(VENV)/.installed  ## run all plugins in one process, from many seeds (SEEDS=1000, JOBS=2)
	@PYTHONPATH=.:tests $(VENV)/bin/python -m simulation --seeds $(SEEDS) --jobs $(JOBS)

test-long: $(VENV)/.installed $(MELTANO)/.installed  ## run what takes longer: 20,000 simulated seeds, 60 seeds with killed processes
	@PYTHONPATH=.:tests $(VENV)/bin/python -m simulation --seeds 20000 --jobs $(JOBS)
	$(VENV)/bin/python -m pytest -m long --numprocesses $(WORKERS) --dist loadgroup

bench: $(VENV)/.installed  ## measure against plain Singer plugins (ARGS=--quick for a few minutes)
	@PYTHONPATH=. $(VENV)/bin/python benchmarks/run.py $(ARGS)

lint: $(VENV)/.installed  ## run the linter, the type checker, the import contracts and the check of words
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python scripts/check_words.py

words: $(VENV)/.installed  ## find expressions that the glossary replaces
	$(VENV)/bin/python scripts/check_words.py

format: $(VENV)/.installed  ## fix and format the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

generate: $(VENV)/.installed  ## renew generated files after a change of settings
	$(VENV)/bin/python scripts/generate.py

audit: $(VENV)/.installed  ## compare the installed packages with published vulnerabilities (needs the internet)
	@$(PYTHON) -m venv $(AUDIT)
	@$(AUDIT)/bin/python $(PIP) pip-audit
	$(AUDIT)/bin/pip-audit --skip-editable --path $(VENV)/lib/python3*/site-packages

clean: ## remove environments, caches and the demo
	rm -rf $(VENV) $(MELTANO) $(JSONL) $(AUDIT) .meltano .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python $(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(MELTANO)/.installed: constraints-meltano.txt
	@echo "Installing Meltano into $(MELTANO) ..."
	@$(PYTHON) -m venv $(MELTANO)
	@$(MELTANO)/bin/python $(PIP) --constraint constraints-meltano.txt meltano
	@touch $@

$(JSONL)/.installed: constraints-jsonl.txt
	@echo "Installing target-jsonl into $(JSONL) ..."
	@$(PYTHON) -m venv $(JSONL)
	@$(JSONL)/bin/python $(PIP) --constraint constraints-jsonl.txt target-jsonl
	@touch $@
