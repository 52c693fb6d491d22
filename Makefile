# `make` alone says what there is. Everything lives in .venv; nothing is installed elsewhere.

PYTHON ?= python3
CARGO ?= $(firstword $(shell command -v cargo) $(wildcard $(HOME)/.cargo/bin/cargo))
ARGS ?=
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
CRATE := shard/native
MANIFEST := --manifest-path $(CRATE)/Cargo.toml
NATIVE_SOURCES := $(shell find $(CRATE) -name target -prune -o -type f -print 2>/dev/null)
INSTALLED := $(if $(CARGO),$(VENV)/.installed-native,$(VENV)/.installed-pure)
CHECKOUT_PTH := $(VENV)/lib/python3.*/site-packages/shardex-checkout.pth
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python

.PHONY: help setup demo test explore sim torture failover partition lint format bench clean
.DELETE_ON_ERROR:

help: ## this list
	@echo "shardex: a sharded multi-process exchange"
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## build what is missing into .venv (quick when nothing has changed)

demo: setup ## a whole exchange to play with; Ctrl-C ends it and leaves nothing (ARGS="--shards 4")
	@$(BIN)/shardex demo $(ARGS)

test: lint ## everything: style, types, layers, native crate, tests (PYTEST_ARGS="-k journal")
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" $(PYTEST_ARGS)

explore: setup ## the property tests with examples that no run had before, and many more of them
	$(BIN)/python -m pytest -n 2 -m hypothesis --hypothesis-profile=explore --timeout=3600 $(PYTEST_ARGS)

sim: setup ## simulated faults on the real cores (SEEDS=100000)
	$(BIN)/python -m tests.sim --seeds $(or $(SEEDS),2000) $(ARGS)

torture: setup ## a real cluster loses random parts under load, the checker judges (KILLS=1000)
	$(BIN)/python -m drills.torture --kills $(or $(KILLS),50) $(ARGS)
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

failover: setup ## how long nobody gets through when a shard changes hands
	$(BIN)/python -m drills.failover $(ARGS)

partition: setup ## cut cables between real hosts in network namespaces (root, ip, iptables)
	$(BIN)/python -m drills.partition $(ARGS)

lint: setup ## style, types, layers and the native crate, without running the Python tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
ifneq ($(CARGO),)
	$(CARGO) fmt $(MANIFEST) --check
	$(CARGO) clippy $(MANIFEST) --locked --quiet -- -D warnings
	$(CARGO) clippy $(MANIFEST) --locked --quiet --no-default-features --all-targets -- -D warnings
	$(CARGO) test $(MANIFEST) --locked --quiet --no-default-features
else
	@echo "cargo is missing: the native crate was not checked"
endif

format: setup ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
ifneq ($(CARGO),)
	$(CARGO) fmt $(MANIFEST)
endif

bench: setup ## measure against the targets; table here, figures in build/bench.json
	$(BIN)/python -m bench $(ARGS)

clean: ## remove everything that was built
	rm -rf $(VENV) build dist $(CRATE)/target shard/_matching*.so
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.dependencies: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "shardex needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p["dependencies"], *p["optional-dependencies"]["dev"], sep="\n")' > $(VENV)/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement $(VENV)/requirements.txt
	@touch $@

$(VENV)/.installed-native: $(VENV)/.dependencies $(NATIVE_SOURCES)
	PATH="$(dir $(CARGO)):$$PATH" VIRTUAL_ENV=$(CURDIR)/$(VENV) PIP_QUIET=1 $(BIN)/maturin develop --release --locked --quiet
	@rm -f $(VENV)/.installed-pure $(CHECKOUT_PTH)
	@touch $@

# Without cargo: the same packages and the same command, from the same checkout; the engine is the reference engine.
$(VENV)/.installed-pure: $(VENV)/.dependencies
	@echo "cargo is missing: shardex runs on the plain-Python reference engine, many times slower than the native one"
	@echo '$(CURDIR)' > $$(ls -d $(VENV)/lib/python3.*/site-packages)/shardex-checkout.pth
	@printf '#!%s\nfrom shardex.__main__ import main\n\nmain()\n' '$(CURDIR)/$(BIN)/python' > $(BIN)/shardex
	@chmod +x $(BIN)/shardex
	@rm -f $(VENV)/.installed-native
	@touch $@
