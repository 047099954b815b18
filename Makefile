# `make quickstart` and `make test` set up .venv themselves, from pip alone; once set up, neither needs the network.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
AOT = $(VENV)/aot
PEERS = .venv-peers
BENCH = .venv-bench
DOCS = .venv-docs
PARALLEL = -n auto --maxprocesses 4 --dist loadfile
TESTS ?=  # more arguments of pytest

.PHONY: env quickstart test stress test-peers bench-peers docs lint format clean

env: $(READY)

$(READY): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

quickstart: env
	$(BIN)/python train.py configs/quickstart.py

test: env $(AOT)/.ready
	$(BIN)/python -m pytest $(PARALLEL) $(TESTS)

# The faults of tests/reliability in large numbers: about ten minutes on two cores.
stress: env
	STRESS=1 $(BIN)/python -m pytest $(PARALLEL) --timeout 3600 tests/reliability

# What compiles for TPUs and GPUs that are not there. Without it (no network, another system) tests/aot is skipped.
$(AOT)/.ready: $(READY) requirements-aot.txt
	rm -rf $(AOT) && mkdir $(AOT)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 10 --no-deps \
		--target $(AOT) -r requirements-aot.txt && touch $@ || echo "make: ahead-of-time compilers not installed"

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck --severity=style tpu_setup/*.sh tpu_setup/gke/*.sh tpu_setup/slurm.sbatch

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The same weights in Hugging Face's PyTorch RoFormer, live: PyTorch and transformers in an environment of their own.
$(PEERS)/.ready:
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.23.0" \
		"rjieba==0.2.2"
	touch $@

test-peers: env $(PEERS)/.ready
	PEERS_PYTHON=$(PEERS)/bin/python $(BIN)/python -m pytest tests/peers

# What benchmarks/ measures against: PyTorch, and the last transformers with Flax, on the JAX of this project.
$(BENCH)/.ready:
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check \
		"torch==2.13.0" "transformers==4.57.6" jax flax optax "libtpu==0.0.52"
	touch $@

bench-peers: env $(BENCH)/.ready

# The site, into docs/_build/html: the notebooks run, warnings are errors, and once set up the network is not needed.
$(DOCS)/.ready: requirements.txt requirements-docs.txt pyproject.toml
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

docs: $(DOCS)/.ready
	$(DOCS)/bin/python -m sphinx --fresh-env --fail-on-warning --nitpicky --quiet docs docs/_build/html

clean:
	rm -rf $(VENV) $(PEERS) .venv-* .pytest_cache .ruff_cache .hypothesis build dist *.egg-info cache runs docs/_build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
