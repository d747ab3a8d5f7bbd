# Every target builds the virtual environment first, from requirements.lock, where it is missing or out of date.
# `make help` reads this file: `##@` is a heading, and what stands behind `##` tells what a target does.

STATE_DIR ?= .sluicegate
N ?= 1000
BIN := .venv/bin
READY := .venv/.ready
# What is read from the tree alone, and is quick.
TREE := $(addprefix tests/house/test_,tree.py architecture.py promises.py changelog.py dependencies.py)

# An order's reason is text, not make's or the shell's: `value` takes it unexpanded, and it travels by environment.
unexport REASON MODE
export SLUICEGATE_MAKE_REASON = $(value REASON)
export SLUICEGATE_MAKE_MODE = $(value MODE)
export SLUICEGATE_MAKE_STATE_DIR = $(value STATE_DIR)

# What another shell needs to reach a running `make up`; without one, the settings of the environment hold.
JOIN = if [ -r "$$SLUICEGATE_MAKE_STATE_DIR/env" ]; then . "$$(cd "$$SLUICEGATE_MAKE_STATE_DIR" && pwd)/env"; fi
ORDER = $${SLUICEGATE_MAKE_REASON:+"--reason=$$SLUICEGATE_MAKE_REASON"}

.PHONY: help demo demo-json demo-quiesce up pause resume status test test-all faults beside check floor model simulate bench bench-scale soak soak-scopes soak-quiesce celery-suite mutation changelog dist lock clean venv

help: ## Show this list
	@awk -F ':.*## ' ' \
	  BEGIN           {print "usage: make TARGET [NAME=value …]     the first one sets everything up in .venv, in a minute or two"} \
	  /^##@ /         {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@printf '%s\n' "" "Names that most targets take" \
	  '  ARGS="…"      more arguments for the command behind it: make soak ARGS=--help' \
	  '  T="PATH…"     of the tests, only these' \
	  '  PYTHON=…      the interpreter to set up with; 3.11 or newer' \
	  '  STATE_DIR=…   where `make up` keeps its files; .sluicegate'

##@ Try it: a real fleet on a real Postgres and Valkey, which start and stop by themselves

demo: $(READY) ## A real fleet pauses, loses a worker and its broker, resumes, and proves that nothing was lost
	@$(BIN)/python -m tests.fleet.demo $(ARGS)

demo-json: $(READY) ## The same facts as one JSON object
	@$(BIN)/python -m tests.fleet.demo --json $(ARGS)

demo-quiesce: $(READY) ## Long tasks are quiesced, a worker is killed, and every item is done exactly once
	@$(BIN)/python -m tests.fleet.demo_quiesce $(ARGS)

##@ Use it: a control plane on this machine, and orders to its fleet

up: $(READY) ## Postgres, Valkey and the control plane in the foreground; Ctrl-C stops them
	@SLUICEGATE_STATE_DIR="$$SLUICEGATE_MAKE_STATE_DIR" exec $(BIN)/sluicegate up $(ARGS)

pause: $(READY) ## Pause the fleet of a running `make up`: make pause MODE=drain REASON="…"
	@$(JOIN); exec $(BIN)/sluicegate pause $${SLUICEGATE_MAKE_MODE:+"--mode=$$SLUICEGATE_MAKE_MODE"} $(ORDER) $(ARGS)

resume: $(READY) ## Let it run again: make resume REASON="…"
	@$(JOIN); exec $(BIN)/sluicegate resume $(ORDER) $(ARGS)

status: $(READY) ## What is held, and how far each worker has got
	@$(JOIN); exec $(BIN)/sluicegate status $(ARGS)

##@ Test it

test: $(READY) ## Each promise on real processes, in minutes; or some tests: make test T=tests/unit ARGS="-k name"
	@$(BIN)/python -m tests.run $(T:%=--of=%) $(ARGS)

test-all: $(READY) ## Every test: the long ones too, all combinations, full random searches (what CI runs)
	@$(BIN)/python -m tests.run --all $(T:%=--of=%) $(ARGS)

faults: $(READY) ## The faults of network, clock, disk and servers, each into a real fleet (part of `make test-all`)
	@$(BIN)/python -m tests.run --all --of=tests/faults $(ARGS)

beside: $(READY) ## A drill beside each of other people's libraries, from locks of their own; ARGS=--write: docs/compatibility.md
	@$(BIN)/python -m tests.beside $(ARGS)

check: $(READY) ## Lint, format, types, import rules, compose.yaml, and what may not stand in the tree
	@echo "ruff";         $(BIN)/ruff check --quiet .
	@echo "ruff format";  $(BIN)/ruff format --quiet --check .
	@echo "mypy";         $(BIN)/mypy --no-error-summary
	@echo "import rules"; $(BIN)/lint-imports --no-cache
	@echo "compose.yaml"; $(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec compose.yaml
	@echo "the tree";     $(BIN)/python -m pytest --quiet $(TREE)

floor: $(READY) ## The tests of the gate on the oldest versions that we promise: Celery 5.5
	@.ci/floor $(ARGS)

model: $(READY) ## Check the gate's model with Spin: the design holds, every mutant fails
	@$(BIN)/python -m tests.model.checking $(ARGS)

simulate: $(READY) ## Simulate fleets from seeds: make simulate ARGS="--seeds 1000 --workers 10000"
	@$(BIN)/python -m tests.simulation $(ARGS)

soak: $(READY) ## Pause a busy worker N times: make soak N=1000; ARGS="--beside sentry": with a library in force
	@$(BIN)/python -m tests.fleet.soak --pauses $(N) $(ARGS)

soak-scopes: $(READY) ## A hundred random sequences of scoped holds on real workers, beside the pure model
	@$(BIN)/python -m tests.fleet.scoped_holds $(ARGS)

soak-quiesce: $(READY) ## Quiesce, kill at random instants, and time how soon 12 slots stand still
	@$(BIN)/python -m tests.fleet.quiesce_soak $(ARGS)

celery-suite: $(READY) ## Celery's own canvas and task tests, on plain Celery and with the plugin
	@$(BIN)/python -m tests.celery_suite $(ARGS)

mutation: $(READY) ## Do the tests notice? 60 small faults, chosen by a seed, one at a time; takes hours
	@$(BIN)/python -m tests.mutation $(ARGS)

##@ Measure it: each number beside its reference of the same run (docs/benchmarks.md)

bench: $(READY) ## What the gate costs and how fast a pause is, beside plain Celery
	@$(BIN)/python -m tests.bench $(ARGS)

bench-scale: $(READY) ## A pause on 10 to 10,000 followers, beside a bare PUBLISH
	@$(BIN)/python -m tests.bench.scale $(ARGS)

##@ Maintain it (CONTRIBUTING.md)

changelog: $(READY) ## CHANGELOG.md's part of this version, anew from docs/changes/; ARGS=--release takes those away
	@.ci/changelog $(ARGS)

dist: $(READY) ## The source distribution, and the wheel that it builds, in dist/
	@rm -rf dist
	@$(BIN)/uv build --quiet --no-build-isolation --python $(BIN)/python --out-dir dist
	@ls dist/*.tar.gz dist/*.whl

lock: $(READY) ## Fit all locks to pyproject.toml; ARGS=--upgrade takes the newest versions of all
	@$(BIN)/uv pip compile --quiet $(ARGS) --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --custom-compile-command "make lock" \
	  --all-extras --group dev --output-file requirements.lock pyproject.toml
	@$(BIN)/uv pip compile --quiet $(ARGS) --universal --python-version 3.11 --generate-hashes \
	  --resolution lowest-direct --no-emit-index-url --custom-compile-command "make lock" \
	  --all-extras --group dev --output-file .ci/floor.lock pyproject.toml
	@for group in common batches airflow; do \
	  $(BIN)/uv pip compile --quiet $(ARGS) --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --custom-compile-command "make lock" $$([ $$group != common ] || echo --constraint requirements.lock) \
	    --output-file tests/beside/locks/$$group.lock pyproject.toml tests/beside/locks/$$group.in || exit; \
	done

clean: ## Remove what make built; a state directory stays
	@rm -rf .venv build dist src/*.egg-info .mypy_cache .ruff_cache .hypothesis
	@find . -path ./.git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

venv: $(READY) ## Set up .venv, and nothing else

$(READY): requirements.lock pyproject.toml schemas/version.py .ci/venv
	@.ci/venv $(PYTHON)
	@touch $@
