# carpd: `make demo` shows it, `make test` proves it. Each installs what it lacks and says what it does.

VENV   := .venv
PYTHON := $(VENV)/bin/python
READY  := $(VENV)/.ready

.PHONY: help demo test lint bench soak man deb clean setup

help:
	@echo "make demo    two firewalls fail over before your eyes (under a minute)"
	@echo "make test    lint and every test (needs root for the namespace tests)"
	@echo "make lint    ruff, mypy --strict, import-linter"
	@echo "make bench   failover and state synchronisation beside ucarp, keepalived, conntrackd (long)"
	@echo "make soak    ten minutes under load without a false take-over; long simulations"
	@echo "make man     the manual pages, in build/man"
	@echo "make deb     the Debian package, in build/deb"
	@echo "make clean   remove what the targets above have made"

setup: $(READY)
	@./tools/setup check

$(READY): pyproject.toml tools/setup
	@./tools/setup install

demo: setup
	@$(VENV)/bin/carpctl demo

test: lint
	@./tools/setup packages
	@$(PYTHON) -m pytest -q

lint: setup
	$(VENV)/bin/ruff check src tests benchmarks
	$(VENV)/bin/ruff format --check src tests benchmarks
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

bench: setup
	@./tools/setup packages
	@$(PYTHON) -m benchmarks.failover
	@$(PYTHON) -m benchmarks.scale
	@$(PYTHON) -m benchmarks.sharing
	@$(PYTHON) -m benchmarks.carpctl
	@$(PYTHON) -m benchmarks.control
	@$(PYTHON) -m benchmarks.state_sync
	@$(PYTHON) -m benchmarks.state_sync.power

soak: setup
	@$(PYTHON) -m benchmarks.soak
	@$(PYTHON) -m benchmarks.simulate --seeds 3000 --jobs 2

man:
	@./tools/setup man
	@./tools/manuals build/man

deb:
	@./tools/setup deb
	@./tools/deb

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
