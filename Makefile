# Every target does its own set-up: Python 3.11 and the package index are all they need.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
UV := $(VENV)/uv/bin/uv
UV_VERSION := 0.13.8
export UV_LINK_MODE ?= copy
# An organisation's own authority is in the system's store, where pip looks for it as well.
export UV_SYSTEM_CERTS ?= 1

# Whole files side by side, the longest first (tests/conftest.py): each process has an appliance of
# its own. What failed beside others is asked once more alone, because limits in seconds hold for a
# machine that does nothing else.
PYTEST := $(BIN)/python -m pytest
SUITE := $(PYTEST) --numprocesses auto --maxprocesses 4 \
    --dist loadfile --no-loadscope-reorder \
  || $(PYTEST) --last-failed --last-failed-no-failures none

# Where it is set, as in many container images, each of the hundreds of processes that the suite and
# an appliance start compiles every module anew: three of its five seconds.
unexport VIRTUAL_ENV PYTHONDONTWRITEBYTECODE
.PHONY: help setup demo up test check format requirements clean chromium slapd pgbouncer
.DEFAULT_GOAL := help

help:
	@echo 'make demo    set up, import real pictures, search them, check every step'
	@echo 'make up      run the appliance on http://127.0.0.1:8000 until ^C'
	@echo 'make test    set up and run the whole test suite'
	@echo 'make check   format, lint, types, layers, migrations, tests: what CI runs'

setup: $(VENV)/ready

# The environment is made anew when a pin changes.
$(VENV)/ready: requirements/dev.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(PYTHON) -m venv $(VENV)/uv
	$(VENV)/uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements/dev.txt
	@touch $@

demo: setup
	@$(BIN)/python manage.py demo $(if $(IMAGES),--images '$(IMAGES)')

up: setup
	@$(BIN)/python manage.py up

test: setup chromium pgbouncer slapd
	$(SUITE)

check: setup chromium pgbouncer slapd
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(SUITE)

# The browser tests drive Debian's Chromium; a machine without it is told how to get it.
chromium:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium >/dev/null; } \
	  || echo 'no chromium and no right to install it (apt-get install chromium): the browser tests fail' >&2

# The tests of shared database sessions put Debian's PgBouncer before the embedded PostgreSQL.
pgbouncer:
	@PATH="$$PATH:/usr/sbin"; command -v pgbouncer >/dev/null || { [ "$$(id -u)" = 0 ] \
	  && command -v apt-get >/dev/null && apt-get update -qq \
	  && apt-get install -qq -y --no-install-recommends pgbouncer >/dev/null; } \
	  || echo 'no pgbouncer and no right to install it (apt-get install pgbouncer): its tests fail' >&2

# The tests of the directory ask a real OpenLDAP, which they start and stop; Debian's own stays off.
slapd:
	@[ -x /usr/sbin/slapd ] && command -v ldapmodify >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends slapd ldap-utils >/dev/null; } \
	  || echo 'no slapd and no right to install it (apt-get install slapd ldap-utils): its tests fail' >&2

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Pins with hashes and without index hosts; run after a change to a .in file.
requirements: setup
	for name in web worker dev; do \
	  $(UV) pip compile --quiet --generate-hashes --no-emit-index-url --no-annotate --no-header \
	    --python-version 3.11 --no-emit-package opencv-python --no-emit-package imageio-ffmpeg --constraint requirements/dev.txt \
	    requirements/$$name.in -o requirements/$$name.txt || exit 1; done

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
