# make demo | test | lint | install, on a fresh clone. Everything lands in .venv, data/ and outputs/.
PYTHON ?= python3
VENV ?= .venv
RUN ?= outputs/demo
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: demo demo-image demo-protein demo-molecule test lint install clean

# Each step goes on where it was interrupted: prepared data is kept, the run folders are continued.
demo: demo-image demo-protein demo-molecule
	$(BIN)/multigen report run=[$(RUN)/image,$(RUN)/protein,$(RUN)/molecule] out=$(RUN)/report.html title="Three domains from one core"
	@echo "done: open $(RUN)/report.html"

demo-image: $(READY)
	$(BIN)/multigen prepare experiment=image/demo
	$(BIN)/multigen train experiment=image/demo run=$(RUN)/image
	$(BIN)/multigen sample run=$(RUN)/image n=64
	$(BIN)/multigen evaluate run=$(RUN)/image

demo-protein: $(READY)
	$(BIN)/multigen prepare experiment=protein/demo batch_size=4
	$(BIN)/multigen train experiment=protein/demo run=$(RUN)/protein
	$(BIN)/multigen design data/examples/1A8O.pdb.gz --run $(RUN)/protein --n 4 --out $(RUN)/protein/designs
	$(BIN)/multigen evaluate run=$(RUN)/protein

demo-molecule: $(READY)
	$(BIN)/multigen prepare experiment=molecule/demo
	$(BIN)/multigen train experiment=molecule/demo run=$(RUN)/molecule
	$(BIN)/multigen sample run=$(RUN)/molecule n=32 out=$(RUN)/molecule/molecules.sdf
	$(BIN)/multigen complete data/examples/benzamidine.sdf --run $(RUN)/molecule --n 24 --add 2:6 --out $(RUN)/molecule/completions
	$(BIN)/multigen evaluate run=$(RUN)/molecule

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
