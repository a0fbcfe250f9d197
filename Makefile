# One entry point for people. Every target does its own set-up on a fresh Debian 12 or 13 machine (root for apt).
.DEFAULT_GOAL := help
PY := .venv/bin/python
PYTEST := $(PY) -m pytest

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: ## apt packages, virtual environment, onebay in it
	@scripts/setup

demo: setup ## the whole story on the sample appliance, in a few minutes
	@rm -rf build/demo
	.venv/bin/onebay demo build/demo

check: setup ## seconds: ruff, mypy, import order, unit tests
	$(PYTEST) -q tests/style tests/unit

test: setup ## minutes: what CI runs
	$(PYTEST) -q -n 2 --dist loadfile

crash: setup ## 20 minutes: power cuts after every sector of fold, grow, restore and repair, replayed
	ONEBAY_CRASH=1 $(PYTEST) -q tests/crash

vm: setup ## hours: the boot matrix (layouts x firmware x buses), installations, storage manager, generic disks
	@scripts/setup chromium
	.venv/bin/pip install --quiet --disable-pip-version-check -e '.[browser]'
	$(PYTEST) -q -m vm --matrix tests/vm

fuzz: setup ## MINUTES=30 [TARGET=ext]: look for input that breaks a parser (docs/testing.md)
	.venv/bin/pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	nice $(PY) -m fuzz --minutes $(or $(MINUTES),30) $(addprefix --target ,$(TARGET))

bench: setup ## SIZE=small|full ROUNDS=5 [WORK=fresh,aged] [VERB=restore]: measured beside the peers (docs/bench.md)
	@scripts/setup partclone fsarchiver casync curl || echo "bench: goes on without them"
	$(PY) -m bench run --size $(or $(SIZE),full) --rounds $(or $(ROUNDS),5) --work "$(WORK)" --verb "$(VERB)"

bench-quick: setup ## a minute: processor seconds beside the baseline; UPDATE=1 renews it
	$(PY) -m bench quick $(if $(UPDATE),--update)

docs: setup ## write the documents that come from the code
	$(PY) scripts/verbs.py
	$(PY) scripts/resize.py

clean: ## remove the virtual environment and caches inside the checkout
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

.PHONY: help setup demo check test crash vm fuzz bench bench-quick docs clean
