# Everything that can be done here; `make help` lists it.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 5000
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS := .venv-peers

.DEFAULT_GOAL := help
.PHONY: help setup study test test-versions test-study test-long test-cluster test-container lint ui bench constraints clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## create .venv and install the project with the tested versions

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into $(VENV); this takes a few minutes, most of it torch."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

study: setup  ## the main job: how far does the linear rule hold on real digits? (about two minutes)
	$(BIN)/python -m pipeline.train experiment=linear_rule -m

test: setup  ## the tests (four to six minutes on two cores)
	$(BIN)/python -m pytest -m 'not slow and not cluster and not long'

test-versions: setup  ## the tests with the lowest and the newest versions, on each Python found; in .venvs/ (about 20 minutes)
	$(BIN)/python tests/environments.py

test-study: setup  ## the main job as a test: time, memory, answer, and how it looks in MLflow (with chromium; about four minutes)
	$(BIN)/python -m pytest -m slow --numprocesses 0 --capture no

test-long: setup  ## servers that go away, deaths at every record, thousands of trials and simulated studies (about half an hour)
	$(BIN)/python -m pytest -m 'long and not alone'; side_by_side=$$?; \
	$(BIN)/python -m pytest -m 'long and alone' --numprocesses 0 --capture no && exit $$side_by_side

$(VENV)/.clusters: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,ray,slurm,postgres,dashboard]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps hydra-ray-launcher
	@touch $@

test-cluster: $(VENV)/.clusters  ## sweeps on a real Slurm, Ray and PostgreSQL (Debian's packages; as root)
	$(BIN)/python -m pytest -m cluster --numprocesses 0

test-container:  ## build the container, and run the tests and the main job in it (docker)
	docker build --tag lr-batch .
	docker run --rm lr-batch make test
	folder=$$(mktemp -d) && docker run --rm --user "$$(id -u)" --volume "$$folder:/project/mlruns" lr-batch \
		&& test -s "$$folder/mlflow.db"

lint: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin

ui: setup  ## browse the results in MLflow, at http://127.0.0.1:5000 (PORT=5001 for another)
	$(BIN)/mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db --host $(HOST) --port $(PORT)

$(PEERS)/.installed: benchmarks/peers/requirements.txt constraints.txt
	@echo "Installing the peers' stack into $(PEERS); this takes a few minutes, most of it torch."
	$(PYTHON) -m venv $(PEERS)
	grep -v '^optuna==' constraints.txt > $(PEERS)/constraints.txt
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(PEERS)/constraints.txt --requirement $<
	@touch $@

bench: setup $(PEERS)/.installed  ## speed and memory beside bare PyTorch and the peers' stack (about twenty minutes)
	$(BIN)/python benchmarks/everything.py $(PEERS)/bin/python

constraints: setup  ## write the installed versions down as the tested ones
	$(BIN)/python -m pip freeze --exclude-editable | grep -viE '^(nvidia|cuda|triton)' > constraints.txt

clean:  ## remove .venv, .venvs, .venv-peers and caches; results in mlruns/ stay
	rm -rf $(VENV) .venvs $(PEERS) .pytest_cache .mypy_cache .ruff_cache build dist src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -exec rm -rf {} +
