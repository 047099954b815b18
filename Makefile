# `make quickstart` and `make test` set up .venv themselves, from pip alone; once set up, neither needs the network.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
PEERS = .venv-peers

.PHONY: env quickstart test test-peers lint format clean

env: $(READY)

$(READY): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

quickstart: env
	$(BIN)/python train.py configs/quickstart.py

test: env
	$(BIN)/python -m pytest

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The same weights in Hugging Face's PyTorch RoFormer, live: PyTorch and transformers in an environment of their own.
$(PEERS)/.ready:
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.23.0"
	touch $@

test-peers: env $(PEERS)/.ready
	PEERS_PYTHON=$(PEERS)/bin/python $(BIN)/python -m pytest tests/peers

clean:
	rm -rf $(VENV) $(PEERS) .venv-* .pytest_cache .ruff_cache .hypothesis build dist *.egg-info cache runs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
