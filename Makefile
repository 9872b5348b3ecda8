PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test suite test-slow bench figures lint clean

# One environment for all targets; torch first, so that no other package pulls in a CUDA build.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install -q --disable-pip-version-check -e '.[text,plot,dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/python -m docs.examples.demo

test: $(READY)
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
	  echo "note: Chromium or chromedriver is missing: pages are not opened in a browser (apt-get install chromium chromium-driver)"
	@command -v dot >/dev/null || echo "note: Graphviz is missing: shapes of pictures are not checked (apt-get install graphviz)"
	$(MAKE) -j2 -k lint suite  # types take one core for a minute

# Each worker takes half of the modules in turn, and the one that is done first takes half of what the other has left.
suite: $(READY)
	$(BIN)/pytest -n auto --dist worksteal

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
