# Everything a person or CI types from a fresh clone: `make demo`, `make test`. Needs make and a Python, nothing else.
#
# All paths are relative and quoted, so the checkout may lie in a path with spaces and belong to anybody.

# The first of these that is Python 3.10 or newer makes the environment; `make PYTHON=/path/to/python` says another.
# Plain python3 comes first: it is the one whose venv module a system's packages complete.
PYTHON ?=
PYTHONS := $(if $(PYTHON),"$(PYTHON)",python3 python3.14 python3.13 python3.12 python3.11 python3.10 python)

VENV := .venv
# Not .venv/bin/pip or .venv/bin/pytest: the first line of such scripts holds an absolute path, which may be too long
# for the kernel and be stale once the checkout has moved.
RUN := $(VENV)/bin/python
# The demo runs on the plain package; tests need everything. A stamp each, so that a change of the pins or of the
# metadata, and nothing else, installs again. The second stamp follows the first, so that `make -j demo test` never runs
# pip twice at once.
MADE := $(VENV)/.made
READY := $(VENV)/.ready
READY_FOR_TESTS := $(VENV)/.ready-for-tests
PINS := requirements.lock pyproject.toml
INSTALL := "$(RUN)" -m pip install --disable-pip-version-check -c requirements.lock

# Test processes. Each keeps to one thread: two processes with a thread per core each are slower than one. Tests that
# share what there is once on a machine, a cluster, are a group that one process runs (loadgroup).
WORKERS ?= 2
COVERAGE := 90
CONFIG ?= configs/demo.yaml

# With it set, as some container images do, no .pyc is ever written and each start imports the whole stack from source:
# 35 s instead of 10 s.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint packages clean
.DELETE_ON_ERROR:

help:
	@echo "make demo   the whole path on two small generated towns, on the CPU, in about ten minutes"
	@echo "make test   style, types and the test suite with its coverage"
	@echo "make lint   style and types only"
	@echo "make venv   only the environment, in $(VENV)"
	@echo "make clean  removes the environment and every cache; runs/ and data/ stay"

demo: $(READY)
	"$(RUN)" launch/pipeline.py --config "$(CONFIG)"

# Style and types first: they take seconds, and pytest's closing line is then the last one.
test: lint packages
	OMP_NUM_THREADS=1 "$(RUN)" -m pytest -n $(WORKERS) --dist loadgroup \
	    --cov=drdg --cov-report=term:skip-covered --cov-fail-under=$(COVERAGE)

# What the tests on a Slurm cluster need of the system, which root on Debian and Ubuntu is spared from installing. Before
# pytest, as apt must not use up a test's time.
packages: $(READY_FOR_TESTS)
	@"$(RUN)" tests/slurm/packages.py

lint: $(READY_FOR_TESTS)
	"$(RUN)" -m ruff check .
	"$(RUN)" -m ruff format --check .
	"$(RUN)" -m mypy

venv: $(READY)

$(READY): $(MADE) $(PINS)
	$(INSTALL) -e .
	@touch "$@"

$(READY_FOR_TESTS): $(READY)
	$(INSTALL) -e ".[dev]"
	@touch "$@"

# Debian and Ubuntu take ensurepip out of Python and put it into a package of its own, which a fresh system lacks. Root
# can be spared that errand; anybody else is told what to ask for. No --clear: it would wipe an environment that a person
# keeps here, and without it one whose making broke off is completed all the same.
HAS_VENV := -c 'import ensurepip, venv' 2>/dev/null
$(MADE):
	@python=; \
	for candidate in $(PYTHONS); do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
	        python=$$candidate; break; \
	    fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "make: found no Python 3.10 or newer; install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; \
	fi; \
	package=$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	if ! "$$python" $(HAS_VENV) && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$$package"; \
	fi; \
	if ! "$$python" $(HAS_VENV); then \
	    echo "make: $$python makes no environments; install its venv module (Debian, Ubuntu: $$package)" >&2; exit 1; \
	fi; \
	echo "make: environment $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv "$(VENV)"
	@touch "$@"

clean:
	rm -rf "$(VENV)" .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis build drdg.egg-info
	find drdg launch shards tests -name __pycache__ -type d -prune -exec rm -rf {} +
