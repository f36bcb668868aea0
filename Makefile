# make demo    try the gateway without a Kimi account
# make run     start the gateway with the settings in .env
# make check   format, lint, types and import rules
# make test    all checks and tests
# make servers install PostgreSQL and nginx for the tests (as root, with apt; make test does this too)
# make format  correct what make check can correct automatically
# make docs    write the generated parts of the documentation
# make bench   measure the speed (QUICK=1: only check that the benchmark works)
# make profile measure where the processor time goes
# make toolbench measure how well Kimi calls functions, through a running gateway (TOOLBENCH="--model k2-nosearch")
# make soak    30 minutes of clients that come and leave (QUICK=1: two minutes)
# make fuzz    20,000 random requests, made from /openapi.json
# make chaos   an hour of failures of every kind (SEED=7 SECONDS=600: another run)
# make clients test real clients, each in its own environment (CLIENTS="--only aider", CLIENTS=--ci)
# make journeys  go through the console in a real Chromium (JOURNEYS="--only phone", JOURNEYS="--shots FOLDER")
# make hosts   start the servers of docs/hosting.md (as root it installs them with apt; HOSTS="--only uwsgi")
# make image   build the Docker image with buildah and run it, without Docker (as root, with apt)
# make buildah install what make image needs (as root, with apt; make image does this too)
# make clean   remove .venv, .clients and all caches
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PORT   ?= 8000

.PHONY: help demo run test servers check format docs chaos bench profile toolbench soak fuzz clients journeys hosts image buildah clean
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
	@test -f .env || { cp .env.example .env; chmod 600 .env; echo "Made .env, with the defaults of all settings."; }
	$(BIN)/gunicorn

check: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/dev
	$(BIN)/python -m tests.docs

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

toolbench: $(VENV)/dev
	$(BIN)/python -m bench.toolbench $(TOOLBENCH)

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

JOURNEYS_LIB := .clients/journeys
$(JOURNEYS_LIB)/axe.min.js: $(VENV)/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(JOURNEYS_LIB) playwright==1.65.2 pyee==13.0.0
	cd $(JOURNEYS_LIB) && npm pack --silent axe-core@4.14.1 && tar xzf axe-core-4.14.1.tgz && cp package/axe.min.js .

journeys: $(JOURNEYS_LIB)/axe.min.js
	@test -x "$${CHROMIUM:-/usr/bin/chromium}" || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || { \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -q --no-install-recommends chromium fonts-noto-cjk; }
	PYTHONPATH=$(JOURNEYS_LIB) $(BIN)/python -m tests.journeys $(JOURNEYS)
hosts: $(VENV)/dev
	@test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || { \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3-venv \
		nginx-light caddy haproxy apache2 libapache2-mod-wsgi-py3 libapache2-mod-passenger uwsgi-core \
		uwsgi-plugin-python3; }
	$(BIN)/python -m tests.hosts $(HOSTS)

image: buildah
	$(BIN)/python -m tests.image

buildah: $(VENV)/dev
	@test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || { \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
		buildah debootstrap; }

clean:
	rm -rf .clients .hosts .image $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
