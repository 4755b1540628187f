# Every target sets up what it needs; all it asks of the machine is Python 3.11+ with venv, make and a package registry.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help up demo test faults lint check format bench lock venv clean

# A process starts in half the time where what was compiled is kept, and the system and its tests start many.
export PYTHONDONTWRITEBYTECODE :=

VENV := .venv
PY   := $(VENV)/bin/python
UV   := $(VENV)/bin/uv

# A file stays with one process, which starts its servers once. Whole systems come first, as the folders are named.
AT_ONCE = -n $(or $(WORKERS),2) --dist loadfile --no-loadscope-reorder

help:  ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

up: venv  ## The whole system in the foreground until Ctrl-C
	@exec $(PY) -m stack up

demo: venv  ## The main job from start to end, then exit
	@exec $(PY) -m stack demo

test: venv  ## All tests, WORKERS=2 files at a time; T=path and ARGS=... narrow them down
	@exec $(PY) -m pytest $(if $(T),,$(AT_ONCE)) $(or $(T),tests sdk/tests) $(ARGS)

faults: venv  ## Faults while clients work; SEED=n or SEEDS=n, SECONDS=n, MOST_SECONDS=n, ONLY="kill nats,…", KEEP=dir
	@exec $(PY) -m tests.fault $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS)) \
	    $(if $(SECONDS),--seconds $(SECONDS)) $(if $(MOST_SECONDS),--most-seconds $(MOST_SECONDS)) \
	    $(if $(ONLY),--only "$(ONLY)") $(if $(KEEP),--keep "$(KEEP)")

lint: venv  ## Format, lint, types, import contracts, schemas
	@$(PY) -m ruff format --check --quiet . || { echo "ruff format: run 'make format'"; exit 1; }
	@$(PY) -m ruff check --quiet .
	@$(PY) -m mypy
	@report=$$($(PY) -c 'from importlinter.cli import lint_imports_command as lint; lint(["--no-logo"])') \
	    || { echo "$$report"; exit 1; }
	@$(PY) -m service schemas --check

check: lint  ## What lint does, then unit and property tests
	@exec $(PY) -m pytest -q tests/unit tests/property $(ARGS)

format: venv  ## Format the code and apply the linter's safe fixes
	@$(PY) -m ruff check --quiet --fix-only .
	@$(PY) -m ruff format --quiet .

bench: venv .venv-mlflow/.locked .venv-trackio/.locked .venv-wandb/.locked  ## The benchmark table; P="P2 P4" picks some, KEEP=1 keeps these too in bench/RESULTS.md
	@exec $(PY) -m bench $(P) $(if $(KEEP),--keep)

lock: $(VENV)/.bootstrapped  ## Resolve requirements.in anew into requirements.lock
	@lock() { $(UV) pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 \
	    --custom-compile-command "make lock" "$$@"; }; \
	lock -o requirements.lock requirements.in && lock -c requirements.lock -o bootstrap.lock bootstrap.in \
	    && for peer in mlflow trackio wandb; do lock -o bench/$$peer.lock bench/$$peer.in || exit 1; done

venv: $(VENV)/.sdk  ## The environment in .venv, as the lock file says
	@:

clean:  ## Remove the environment and caches (data under TACHOGRAPH_HOME stays)
	@rm -rf $(VENV) .venv-mlflow .venv-trackio .venv-wandb .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# PYTHON=... chooses the interpreter; otherwise the first that runs and is new enough.
$(VENV)/.bootstrapped: | bootstrap.lock
	@enough=; python=; \
	for each in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python); do \
	    "$$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    enough=$$each; \
	    if "$$each" -c 'import ensurepip, venv' 2>/dev/null; then python=$$each; break; fi; \
	done; \
	if [ -z "$$enough" ]; then \
	    echo "Tachograph needs Python 3.11 or newer; say which one with 'make PYTHON=/path/to/python3.12 ...'." >&2; exit 1; \
	elif [ -z "$$python" ]; then \
	    name=$$("$$enough" -c 'import sys; print("python%d.%d" % sys.version_info[:2])'); \
	    echo "$$enough has no venv module; on Debian and Ubuntu: apt-get install $$name-venv" >&2; exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv --clear $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r bootstrap.lock
	@touch $@

# uv does not read pip's settings; whoever reaches a registry through them is served all the same.
$(VENV)/.locked: $(VENV)/.bootstrapped requirements.lock
	@index=$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$($(PY) -m pip config get global.index-url 2>/dev/null)}}; \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$$index"; fi; \
	$(UV) pip sync --quiet --python $(PY) --require-hashes requirements.lock
	@touch $@

# The peers of some benchmarks; their pins are not ours.
.venv-mlflow/.locked .venv-trackio/.locked .venv-wandb/.locked: .venv-%/.locked: $(VENV)/.locked bench/%.lock
	@index=$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$($(PY) -m pip config get global.index-url 2>/dev/null)}}; \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$$index"; fi; \
	$(UV) venv --quiet --clear --python $(PY) .venv-$* && \
	$(UV) pip sync --quiet --python .venv-$*/bin/python --require-hashes bench/$*.lock
	@touch $@

$(VENV)/.sdk: $(VENV)/.locked sdk/pyproject.toml
	@$(UV) pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable sdk
	@touch $@
