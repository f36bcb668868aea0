# make demo    try it without a Kimi account     make test    everything that is checked
# make run     start it on your own .env         make check   format, lint, types, imports
# make bench   how fast it is (QUICK=1: does the rig work?)    make profile   where its time goes
# make soak    30 minutes of clients that come and leave (QUICK=1: two)
# make fuzz    20,000 requests and more that nobody would think of, made from /openapi.json
# make chaos   everything that can go wrong at once, for an hour (SEED=7 SECONDS=600: another one)
# make servers what make test needs of PostgreSQL and nginx (as root, by apt; it is part of make test)
# make clients the programs that people use, each in an environment of its own (CLIENTS="--only aider", "--ci")
# make format  mend what make check can mend by itself    make clean   away with .venv, .clients and all caches
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PORT   ?= 8000

.PHONY: help demo run test servers check format chaos bench profile soak fuzz clients clean
help:
	@sed -n '/^# /!q; s/^# //p' Makefile

# A stamp per requirements file: installed once, and again when the file changes.
$(VENV)/run: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; this is " + sys.version.split()[0] + " (make PYTHON=python3.12 ...)" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/dev: $(VENV)/run requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

demo: $(VENV)/run
	@$(BIN)/python -m app.hosting.demo

run: $(VENV)/run
	@test -f .env || { cp .env.example .env; chmod 600 .env; echo "Made .env; put your Kimi token into it (README, 'Get a token'), then: make run"; exit 1; }
	$(BIN)/gunicorn

check: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: check servers
	$(BIN)/python -m pytest

# The tests run on SQLite and on a PostgreSQL of their own, and try deploy/nginx.conf where there is an nginx. Root (a
# container, CI) gets both from apt; without PostgreSQL this says what to install.
servers: $(VENV)/dev
	@$(BIN)/python -P tests/running/postgres.py 2>/dev/null || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || { \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -q --no-install-recommends postgresql nginx-light; }
	@$(BIN)/python -P tests/running/postgres.py

SEED    ?= 1
SECONDS ?= 3600
chaos: servers
	$(BIN)/python -m tests.chaos --seed $(SEED) --seconds $(SECONDS)

bench: $(VENV)/dev
	$(BIN)/python -m bench $(if $(QUICK),--quick) $(BENCH)

profile: $(VENV)/dev
	$(BIN)/python -m bench.profile $(PROFILE)

soak: $(VENV)/dev
	$(BIN)/python -m bench.soak $(if $(QUICK),--minutes 2)

fuzz: $(VENV)/dev
	FUZZ_EXAMPLES=2300 $(BIN)/python -m pytest -o addopts="" -rP tests/api/test_fuzz.py
# Chromium is Debian's, where nobody has one; everything else comes from PyPI and npm into .clients/.
clients: $(VENV)/dev
	@test -x "$${CHROMIUM:-/usr/bin/chromium}" || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || { \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -q --no-install-recommends chromium fonts-noto-cjk; }
	$(BIN)/python -m tests.clients $(CLIENTS)

clean:
	rm -rf .clients $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
