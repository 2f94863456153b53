# The project's commands; `make help` lists them. Each sets up what it needs: nothing has to be installed by hand but Python 3.11.
PY ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH ?= flow
JOBS ?= 2
UV_LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --custom-compile-command "make lock" --upgrade

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

.PHONY: help demo test soak check bench services up docs lock clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(VENV)/.base: pyproject.toml requirements/base.lock
	@echo "setting up (once, about a minute)"
	@test -x $(BIN)/pip || PY=$(PY) deploy/venv.sh $(VENV)
	@$(BIN)/pip install --quiet --require-hashes --requirement requirements/base.lock
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.base requirements/test.lock deploy/pcsc.sh
	@deploy/pcsc.sh || test "$(CI)" != true
	@$(BIN)/pip install --quiet --require-hashes --requirement requirements/test.lock
	@touch $@

demo: $(VENV)/.base ## the whole story without a server; report in out/demo
	@$(BIN)/zhika demo

test: $(VENV)/.test services ## set up, start what is missing, and run every test
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

soak: $(VENV)/.test ## every fault at every command of a card over pcscd; about ten minutes, a table at the end
	@$(BIN)/python -m pytest -m soak -s

check: $(VENV)/.test ## formatter, linter, types, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(VENV)/.test services ## a benchmark: make bench BENCH=flow; figures in out/bench
	@$(BIN)/python -m benchmarks.$(BENCH)

services: ## PostgreSQL and RabbitMQ: install (as root) and start what is missing
	@deploy/services.sh || test "$(CI)" != true

up: $(VENV)/.base services ## the line on this machine with RabbitMQ and PostgreSQL; Ctrl-C or `zhika down` ends it
	@. deploy/local.env && $(BIN)/zhika up --outlets

docs: $(VENV)/.base ## documents that are generated from code
	@$(BIN)/python -c "from pipeline.states import diagram; print(diagram(), end='')" > docs/states.md
	@$(BIN)/python -c "from pipeline.photo.findings import document; print(document(), end='')" > docs/photo-findings.md

lock: ## newest versions of everything into the lock files
	@test -x $(BIN)/uv || $(BIN)/pip install --quiet uv
	@$(UV_LOCK) pyproject.toml requirements/build.in --output-file requirements/base.lock
	@$(UV_LOCK) pyproject.toml requirements/build.in --extra test --output-file requirements/test.lock

clean: ## remove what was made
	rm -rf $(VENV) out build *.egg-info
