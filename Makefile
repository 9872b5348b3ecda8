PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow bench figures lint clean

# One environment for all targets; torch first, so that no other package pulls in a CUDA build.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install -q --disable-pip-version-check -e '.[text,plot,dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/python -m docs.examples.demo

test: $(READY) lint
	$(BIN)/pytest -n auto --dist loadscope

test-slow: $(READY)
	$(BIN)/pytest -m slow -s

bench: $(READY)
	$(BIN)/pytest -m bench -s tests/bench

figures: $(READY)
	$(BIN)/python -m docs.figures

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf $(VENV) out demo build dist *.egg-info
