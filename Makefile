# Each target works on its own on a fresh clone. PYTHON picks the interpreter, TORCH what pip is asked for.
PYTHON ?= python3
TORCH ?= $(shell grep '^torch==' constraints.txt)
# On a machine without a GPU, PyTorch's CPU build is enough: see "Get started" on pytorch.org for its index, and pass
# it on as TORCH_ARGS="--index-url ...".
TORCH_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test check format bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH_ARGS) $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,benchmarks,cluster,collect]'
	touch $(STAMP)

demo: install
	$(BIN)/tunewell run --out runs/demo
	@echo "Open runs/demo/report.html in a browser."

test: install
	$(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy toolkit filters eval pipelines

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	@for script in bench/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) .venv-peers build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
