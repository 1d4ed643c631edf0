# make train MODEL=local_aug_gcn     train and test one recipe (ARGS="--trainer.max_epochs 50" overrides)
# make reproduce PAPER=local_augmentation    re-measure a paper's claim (ARGS="--scale full"); without PAPER, list them
# make test                          run the tests
# make bench BENCH=vision            time one of benchmarks/ beside its peers (ARGS="--rounds 5")
# make docs                          build the site of all READMEs, reports and docstrings into site/
# These, and all targets below, first make .venv and install requirements.lock into it, when that is not done yet.

PYTHON ?= python3
MODEL ?= local_aug_gcn
BENCH ?= local_augmentation
BIN := .venv/bin
INSTALLED := .venv/installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install train test lint lock reproduce bench docs

install: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is %s (choose another one with make PYTHON=...)" % sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

train: $(INSTALLED)
	$(BIN)/python train.py --model $(MODEL) $(ARGS)

test: $(INSTALLED)
	$(BIN)/python -m pytest $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

reproduce: $(INSTALLED)
	$(BIN)/python reproduce.py $(PAPER) $(ARGS)

bench: $(INSTALLED)
	$(BIN)/python benchmarks/$(BENCH).py $(ARGS)

# The site's own packages are not in the lock: nothing that is measured depends on them.
docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --no-build-isolation -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

# Pins every package with its hashes for all platforms and Python versions; the file names no index.
lock: $(INSTALLED)
	$(PYTHON) -m venv .venv/uv
	.venv/uv/bin/python -m pip install --quiet uv
	.venv/uv/bin/uv pip compile pyproject.toml --extra test --extra bench --universal --python-version 3.10 \
		--generate-hashes --no-header --no-emit-index-url --upgrade --quiet --output-file requirements.lock
