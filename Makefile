# Every target sets up what it needs by itself; the first run downloads, later ones start at once.

ARGS :=
PYTEST_ARGS :=
PYTHON :=
SEED := 1
CHANGES := 20000
PROFILE := embedded
SECONDS := 30
RATE := 200
EXAMPLES := 20000
REQUESTS := 200000

.DEFAULT_GOAL := help
.PHONY: help demo test chaos outages acl fuzz lint format bench lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  ARGS="..." goes to the program of demo, bench and lock, PYTEST_ARGS="..." to pytest;'
	@echo '  PYTHON=python3.12 builds .venv with that one instead of the newest.'

demo: ## start everything on this machine and show it working
	@bash scripts/setup.sh demo $(PYTHON)
	@.venv/bin/companion demo $(ARGS)

test: ## run every check: format, lint, types, layers, tests, coverage
	@bash scripts/setup.sh test $(PYTHON)
	@bash scripts/test.sh $(PYTEST_ARGS)

chaos: ## random faults against real processes, drawn from SEED, over CHANGES changes, on PROFILE
	@bash scripts/setup.sh test $(PYTHON)
	@.venv/bin/python -m tests.faults.chaos --seed $(SEED) --changes $(CHANGES) --profile $(PROFILE)

outages: ## outages of both stores, SECONDS each, while the hooks are asked RATE times per second
	@bash scripts/setup.sh test $(PYTHON)
	@.venv/bin/python -m tests.faults.outages --seconds $(SECONDS) --rate $(RATE)

acl: ## compare the lists for EMQX with the policies, over EXAMPLES random policies
	@bash scripts/setup.sh test $(PYTHON)
	@ACL_EXAMPLES=$(EXAMPLES) .venv/bin/python -m pytest -q tests/unit/test_acl.py --timeout 3600

fuzz: ## REQUESTS drawn from SEED to the hooks, none of which may be allowed
	@bash scripts/setup.sh test $(PYTHON)
	@.venv/bin/python -m tests.faults.fuzz --requests $(REQUESTS) --seed $(SEED)

lint: ## run the checks that need no tests: format, lint, types, layers
	@bash scripts/setup.sh dev $(PYTHON)
	@bash scripts/lint.sh

format: ## format the code and repair what ruff can
	@bash scripts/setup.sh dev $(PYTHON)
	@.venv/bin/ruff format
	@.venv/bin/ruff check --fix

bench: ## run the benchmarks
	@bash scripts/setup.sh test $(PYTHON)
	@bash scripts/bench.sh $(ARGS)

lock: ## write requirements.lock anew (ARGS=--upgrade: with the newest versions)
	@bash scripts/lock.sh $(ARGS)

clean: ## remove .venv, caches and build output; data stays
	@rm -f .venv/.ready
	@rm -rf .venv .venv-mongo build dist htmlcov coverage.xml .coverage .coverage.* *.egg-info
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
