# What people type. `make demo` and `make test` build .venv themselves; nothing else is needed but Python >= 3.11.
PYTHON ?= python3
VENV := .venv
# Processes that run tests, each a file at a time.
JOBS ?= 2
BIN := $(VENV)/bin
PEERS := benchmarks/peers/.venv
FASTTEXT := benchmarks/peers/.fasttext
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: demo test test-slow browser lint format bench docs clean

demo: $(VENV)/.core
	$(BIN)/herdbook run recipes/laptop.yaml

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

test-slow: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

# The chat page is tested in a Chromium, which no package index has; without one these tests are skipped and say so.
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	  && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } >/dev/null 2>&1 \
	  || echo "no chromium, so the chat page is not tested; as root on Debian: apt-get install chromium"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev $(PEERS)/.made $(FASTTEXT)/.made
	for file in benchmarks/curate_*.py benchmarks/train_*.py $(addprefix benchmarks/,infer_engine.py infer_quantise.py \
	  infer_speculative.py serve_load.py posttrain.py posttrain_preference.py planner.py); do $(BIN)/python $$file || exit 1; done

# The libraries we are compared with; some need older ones than ours, so they live apart.
$(PEERS)/.made: benchmarks/peers/requirements.txt benchmarks/peers/datatrove.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip --disable-pip-version-check -q install -r benchmarks/peers/requirements.txt
	touch $@

$(FASTTEXT)/.made: benchmarks/peers/fasttext.txt
	$(PYTHON) -m venv $(FASTTEXT)
	$(FASTTEXT)/bin/python -m pip --disable-pip-version-check -q install -r benchmarks/peers/fasttext.txt
	touch $@

docs: $(VENV)/.dev
	$(PIP) install -c constraints.txt mkdocs
	$(BIN)/mkdocs build --strict

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "herdbook needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) install -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis site $(PEERS) $(FASTTEXT)
