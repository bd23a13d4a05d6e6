# Every target works in a fresh clone. It needs Python 3.11 or newer, and what its description says. ARGS is passed on to
# the program, for example: make simulate ARGS=--help

.DEFAULT_GOAL := help
.PHONY: help serve test browser clients soak hostile faults simulate bench audit-dependencies lock schema docs messages migrations format clean

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CLIENTS := tests/clients
CLIENTS_INSTALLED := $(CLIENTS)/node_modules/.installed

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

serve: $(INSTALLED) ## start the server, and a PostgreSQL if DATABASE_URL is not set
	@$(BIN)/python -m app serve

test: $(INSTALLED) ## lint, check types, and run the tests on a real PostgreSQL
	@echo "Lint"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@echo "Types"
	@$(BIN)/mypy --no-error-summary
	@echo "Tests"
	@$(BIN)/python -m pytest --quiet --numprocesses=logical $(ARGS)

browser: $(INSTALLED) ## buy credits in a headless browser (needs Chromium)
	@$(BIN)/python -m pytest --quiet tests/browser/top_up_in_browser.py $(ARGS)

clients: $(INSTALLED) $(CLIENTS_INSTALLED) ## run the GraphQL-over-HTTP audits and common JavaScript clients against a server (needs Node and npm)
	@$(BIN)/python -m pytest --quiet --capture=no $(CLIENTS)/stock_clients.py $(ARGS)

soak: $(INSTALLED) ## run randomised tests with many more examples, and the tests left out of `make test` (about 20 minutes)
	@SOAK=1 $(BIN)/python -m pytest --quiet -m "(soak or sized) and not faults" -o faulthandler_timeout=0 --numprocesses=logical $(ARGS)

hostile: $(INSTALLED) ## send 5,000 random documents, 5,000 requests with boundary values and 2,000 malformed messages to a server
	@HOSTILE_DOCUMENTS=$${HOSTILE_DOCUMENTS:-5000} HOSTILE_REQUESTS=$${HOSTILE_REQUESTS:-5000} HOSTILE_MESSAGES=$${HOSTILE_MESSAGES:-2000} \
		$(BIN)/python -m pytest --quiet -s -o faulthandler_timeout=0 tests/hostile $(ARGS)

faults: $(INSTALLED) ## kill, cut off and slow down servers and databases under load (as root: fills a disk, too)
	@FAULT_CYCLES=$${FAULT_CYCLES:-200} FAULT_REPLIES=$${FAULT_REPLIES:-10000} FAULT_SECONDS=$${FAULT_SECONDS:-30} \
		$(BIN)/python -m pytest --quiet -m faults -o faulthandler_timeout=0 tests/faults $(ARGS)

simulate: $(INSTALLED) ## simulate a day of an agent platform against the running server, then verify its ledger
	@$(BIN)/python -m examples.simulation $(ARGS)

bench: $(INSTALLED) ## measure charges, reads, subscriptions and growth, as ratios against references
	@$(BIN)/python -m bench $(ARGS)

format: $(INSTALLED) ## format the code and apply automatic lint fixes
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

schema: $(INSTALLED) ## write schema.graphql
	@$(BIN)/python -m app schema > $(VENV)/schema.graphql
	@mv $(VENV)/schema.graphql schema.graphql

docs: $(INSTALLED) ## regenerate the pages configuration, api-reference and webhook-events in docs/
	@$(BIN)/python -m app reference settings > $(VENV)/page.md && mv $(VENV)/page.md docs/configuration.md
	@$(BIN)/python -m app reference api > $(VENV)/page.md && mv $(VENV)/page.md docs/api-reference.md
	@$(BIN)/python -m app reference events > $(VENV)/page.md && mv $(VENV)/page.md docs/webhook-events.md

messages: $(INSTALLED) ## write tests/messages.txt: every message that a caller can receive
	@REWRITE_MESSAGES=1 $(BIN)/python -m pytest -q -n 0 tests/test_messages.py

migrations: $(INSTALLED) ## write the migrations that the models require
	@$(BIN)/tortoise makemigrations $(ARGS)

audit-dependencies: $(INSTALLED) ## look up known vulnerabilities of the locked packages (needs the internet)
	@$(BIN)/python -m venv $(VENV)/audit
	@$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	@$(VENV)/audit/bin/pip-audit --disable-pip --require-hashes -r requirements.lock $(ARGS)

lock: $(INSTALLED) ## upgrade all packages and write requirements.lock (needs a .venv with Python 3.11)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "make lock needs a .venv with Python 3.11: make clean lock PYTHON=python3.11")'
	@CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --upgrade --extra dev --output-file requirements.lock pyproject.toml

clean: ## remove generated files; the data in .data is kept
	@rm -rf $(VENV) $(CLIENTS)/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements.lock
	@if ! $(BIN)/python -c '' 2>/dev/null; then \
		for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
			if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "No Python 3.11 or newer with venv and pip found: install one (Debian: python3 and python3-venv), or set its path: make PYTHON=/path/to/python3" >&2; \
			exit 1; \
		fi; \
		echo "Creating $(VENV) with $$("$$found" --version)"; \
		"$$found" -m venv --clear $(VENV); \
	fi
	@echo "Installing the packages in requirements.lock (once, about a minute)"
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(CLIENTS_INSTALLED): $(CLIENTS)/package-lock.json $(CLIENTS)/package.json
	@if ! node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' 2>/dev/null || ! npm --version >/dev/null 2>&1; then \
		echo "No Node 18 or newer with npm found: install both (Debian: nodejs and npm)" >&2; \
		exit 1; \
	fi
	@echo "Installing the packages in $(CLIENTS)/package-lock.json"
	@cd $(CLIENTS) && npm ci --loglevel=error >/dev/null
	@touch $@
