# `make help` lists the targets. Each step is done once and again when its inputs change.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
CACHE := .cache
TOOLS := $(CACHE)/tools
VENV := .venv
BIN := $(VENV)/bin
SAY := @printf '%-10s %s\n'

DISTRIBUTIONS := aura_core cloudinit_templates aura_vmd aura_control \
    $(patsubst %/pyproject.toml,%,$(wildcard aura_plugins/*/pyproject.toml))
CODE := $(wildcard aura_core aura_vmd aura_control cloudinit_templates aura_plugins \
    benchmarks examples tests conftest.py)

PIP_INSTALL = -m pip install -qq --disable-pip-version-check --no-input
HASHED = $(PIP_INSTALL) --require-hashes --requirement
EDITABLE = $(PIP_INSTALL) --no-deps --no-build-isolation $(addprefix --editable ./,$(DISTRIBUTIONS))
COMPILE = $(BIN)/pip-compile --quiet --allow-unsafe --generate-hashes --strip-extras \
    --no-emit-index-url --no-emit-trusted-host --no-emit-find-links $(UPGRADE)

# The tools and the environment come first, so that a test finds them by name.
export PATH := $(CURDIR)/$(TOOLS)/bin:$(CURDIR)/$(BIN):$(PATH)

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "%-14s %s\n", $$1, $$2}'

# --- environment -------------------------------------------------------------------------------

$(VENV)/stamp-venv:
	$(SAY) venv "$(VENV) with $(PYTHON)"
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=... $(MAKECMDGOALS)"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	    || { echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13: make PYTHON=... $(MAKECMDGOALS)"; exit 1; }
	@"$(PYTHON)" -m venv --clear $(VENV)
	@touch $@

$(VENV)/stamp-runtime: $(VENV)/stamp-venv .ci/runtime.txt $(addsuffix /pyproject.toml,$(DISTRIBUTIONS))
	$(SAY) install "the runtime's requirements and the distributions"
	@$(BIN)/python $(HASHED) .ci/runtime.txt
	@$(BIN)/python $(EDITABLE)
	@$(BIN)/python -m pip --disable-pip-version-check check >/dev/null || $(BIN)/python -m pip check
	@touch $@

$(VENV)/stamp-development: $(VENV)/stamp-runtime .ci/requirements.txt
	$(SAY) install "the development requirements"
	@$(BIN)/python $(HASHED) .ci/requirements.txt
	@touch $@

$(TOOLS)/stamp-debian: .ci/tools
	$(SAY) tools "Caddy, cloud-init, systemd-analyze"
	@.ci/tools debian
	@touch $@

$(TOOLS)/stamp-node: .ci/tools tests/oidc_provider/package-lock.json $(VENV)/stamp-development
	$(SAY) tools "Node and the OpenID provider"
	@.ci/tools node
	@touch $@

$(TOOLS)/stamp-system: .ci/tools
	$(SAY) tools "mmdebstrap"
	@.ci/tools system
	@touch $@

.PHONY: setup
setup: $(VENV)/stamp-development ## Make .venv with everything a developer needs

.PHONY: tools
tools: $(TOOLS)/stamp-debian $(TOOLS)/stamp-node ## Fetch the programs that tests run beside Python

# --- running -----------------------------------------------------------------------------------

.PHONY: demo
demo: $(VENV)/stamp-runtime ## Show Aura at work, on this machine alone
	@$(BIN)/python -m examples.demo

.PHONY: up
up: $(VENV)/stamp-runtime ## Run everything on this machine
	@$(BIN)/aura up

# --- checking ----------------------------------------------------------------------------------

.PHONY: lint
lint: setup ## Lint and check the format
	$(SAY) lint "ruff"
	@ruff check --quiet .
	@ruff format --quiet --check . || { echo "run 'make format' for these:"; ruff format --check .; }

.PHONY: format
format: setup ## Mend what the linter can, and format
	@ruff check --quiet --fix . || true
	@ruff format --quiet .

.PHONY: types
types: setup ## Check types
	$(SAY) types "mypy --strict"
	@mypy --no-error-summary $(CODE)

.PHONY: contracts
contracts: setup ## Check which package imports which
	$(SAY) contracts "import-linter"
	@mkdir -p $(CACHE)
	@lint-imports --cache-dir $(CACHE)/import-linter >$(CACHE)/contracts.log 2>&1 \
	    || { cat $(CACHE)/contracts.log; exit 1; }

# A file's tests stay together: what it starts once is started once. Three processes on the two
# cores of the smallest machine we develop on, because tests wait for others half of their time.
PYTEST := python -m pytest --quiet -n 3 --dist loadfile

.PHONY: test
test: setup tools lint types contracts ## Everything that must hold before a change lands
	$(SAY) test "pytest"
	@$(PYTEST)

.PHONY: test-system
test-system: setup tools $(TOOLS)/stamp-system ## Tests that boot real machines in namespaces (Linux, root)
	$(SAY) test "pytest, system"
	@python -m pytest --quiet --override-ini timeout=600 -m system

.PHONY: test-storms
test-storms: setup tools ## Storms: races, kills and mutations by the thousand
	$(SAY) test "pytest, storms"
	@python -m pytest --quiet --override-ini timeout=1200 -m storm tests/storms tests/e2e

# The packages' own tests on the other Pythons, without the development tools' checks.
.PHONY: test-pythons
test-pythons: tools $(addprefix test-python-,3.12 3.13) ## The unit tests under Python 3.12 and 3.13, where present

test-python-%:
	@python=; venv=$(CACHE)/python$*; \
	for found in python$* "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$*.*/bin/python; do \
	    if "$$found" -c pass 2>/dev/null; then python=$$found; fi; \
	done; \
	if [ -z "$$python" ]; then echo "python$* is not here: left out"; exit 0; fi; \
	if [ ! -e $$venv/stamp ] || [ .ci/requirements.txt -nt $$venv/stamp ]; then \
	    printf '%-10s %s\n' venv "$$venv"; \
	    "$$python" -m venv --clear $$venv; \
	    $$venv/bin/python $(HASHED) .ci/requirements.txt; \
	    touch $$venv/stamp; \
	fi; \
	$$venv/bin/python $(EDITABLE); \
	printf '%-10s %s\n' test "pytest, Python $*"; \
	PATH="$(CURDIR)/$$venv/bin:$$PATH" $$venv/bin/$(PYTEST) -o cache_dir=$$venv/pytest \
	    --ignore tests/e2e --ignore tests/workspace

.PHONY: bench
bench: setup ## Measure
	@python -m benchmarks

# --- upkeep ------------------------------------------------------------------------------------

.PHONY: requirements
requirements: setup ## Pin and hash the requirements again (UPGRADE=--upgrade for newer versions)
	$(SAY) pin ".ci/requirements.txt, .ci/runtime.txt"
	@$(COMPILE) --output-file .ci/requirements.txt .ci/requirements.in
	@$(COMPILE) --constraint .ci/requirements.txt --output-file .ci/runtime.txt .ci/runtime.in
	@! grep -nE '^-|://' .ci/requirements.txt .ci/runtime.txt \
	    || { echo "the lines above name an index or a path: take them out"; exit 1; }

.PHONY: changelog
changelog: setup ## Show what the next release's notes will say
	@towncrier build --draft --version next

.PHONY: clean
clean: ## Remove what was built, fetched and installed
	@rm -rf $(VENV) $(CACHE) build dist $(addsuffix /build,$(DISTRIBUTIONS)) tests/oidc_provider/node_modules
	@find . -name '*.egg-info' -prune -exec rm -rf {} +
	@find . -name __pycache__ -prune -exec rm -rf {} +
