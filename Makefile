# The commands of everyday work. Each sets up what it needs by itself: see tools/setup.sh.

.DEFAULT_GOAL := help
.PHONY: help demo test chaos cluster notebooks install fmt lint check bench bench-quick bench-memory bench-page bench-scheduler bench-sdk bench-browse bench-instances bench-growth bench-cold-start sizing lock clean

BIN := .venv/bin

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## Enrol, back up and restore on this machine; KEEP=1 leaves it running
	@tools/setup.sh need restic
	@KEEP=$(KEEP) $(BIN)/python -m tools.demo

test: ## Run all tests; ARGS="-k name" for some
	@tools/setup.sh want restic curl $(if $(CI),nginx pgbouncer tinyproxy ssh sshd)
	@$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

chaos: ## Kill and cut off a real fleet for 200 jobs; ARGS="--jobs 40" for fewer
	@tools/setup.sh need restic
	@$(BIN)/python -m tests.system.chaos $(ARGS)

cluster: ## The same with three instances behind nginx, killed and rolled; ARGS="--jobs 40"
	@tools/setup.sh need restic nginx
	@$(BIN)/python -m tests.system.cluster $(ARGS)

notebooks: ## Execute the notebooks; ARGS="01" for one, ARGS="--write" stores their pages
	@tools/setup.sh need restic
	@$(BIN)/python -m tools.notebooks $(ARGS)

install: ## Make .venv, with the command .venv/bin/backhaul
	@tools/setup.sh want restic curl

fmt: ## Format the code, and fix what can be fixed
	@tools/setup.sh
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format

lint: ## Check style and types
	@tools/setup.sh
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

check: lint test ## All of it, as .ci/run does

bench: ## Measure it beside servers that do less, in minutes; ARGS="--agents 1000 --rounds 1"
	@tools/setup.sh
	@$(BIN)/python -m bench $(ARGS)

bench-quick: ## The same with few agents, in less than a minute
	@tools/setup.sh
	@$(BIN)/python -m bench --quick $(ARGS)

bench-memory: ## Show what a parked poll's memory consists of; ARGS="--agents 1000"
	@tools/setup.sh
	@$(BIN)/python -m bench.memory $(ARGS)

bench-page: ## Write what was measured last into docs/performance.md, with its picture
	@tools/setup.sh
	@$(BIN)/python -m bench.page

bench-scheduler: ## Measure 1,000 schedules, and compare 100,000 previews
	@tools/setup.sh
	@$(BIN)/python -m bench.scheduler $(ARGS)

bench-sdk: ## Measure 10,000 jobs as a table, and the memory for a million
	@tools/setup.sh
	@$(BIN)/python -m bench.sdk_listing $(ARGS)

bench-cold-start: ## Measure the first answer of a fresh process; ARGS="20" runs
	@tools/setup.sh
	@$(BIN)/python -m bench.cold_start $(ARGS)

bench-browse: ## Measure how a snapshot of 200,000 files is paged through
	@tools/setup.sh
	@$(BIN)/python -m bench.browse $(ARGS)

bench-growth: ## Compare calls with 10 million jobs to a few; ARGS="--jobs 500000" for fewer
	@tools/setup.sh
	@$(BIN)/python -m bench.growth $(ARGS)

sizing: ## Simulate fleets of 100 to 10,000 agents, and print what a server takes
	@tools/setup.sh
	@$(BIN)/python -m tools.sizing $(ARGS)

bench-instances: ## Measure how soon a job of one instance reaches a poll of another
	@tools/setup.sh
	@$(BIN)/python -m bench.instances $(ARGS)

lock: ## Renew requirements/dev.lock
	@tools/setup.sh
	@tools/lock.sh $(ARGS)

clean: ## Remove .venv, caches and built files
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
