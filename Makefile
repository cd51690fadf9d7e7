# make demo | test | lint | install, on a fresh clone. Everything lands in .venv, data/ and outputs/.
PYTHON ?= python3
VENV ?= .venv
RUN ?= outputs/demo
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: demo test lint install clean

# Each step goes on where it was interrupted: prepared data is kept, the run folder is continued.
demo: $(READY)
	$(BIN)/multigen prepare experiment=image/demo
	$(BIN)/multigen train experiment=image/demo run=$(RUN)
	$(BIN)/multigen sample run=$(RUN) n=64
	$(BIN)/multigen evaluate run=$(RUN)
	@echo "done: open $(RUN)/report.html"

test: $(READY)
	$(BIN)/python -m pytest -n auto $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(READY)

# A stamp, so that a changed pyproject.toml installs again and nothing else does.
$(READY): pyproject.toml
	@echo "installing into $(VENV) (PyTorch is several GB; a few minutes)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --quiet -e ".[all,dev]"
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
