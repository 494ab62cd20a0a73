# make demo | test | lint | bench. Everything lives in .venv; nothing needs the network once it is
# complete. Another Python: make demo PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/cerebsim-installed

.PHONY: demo test lint bench
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(BIN)/cerebsim reproduce table2 --data digits --out runs/demo

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(INSTALLED)
	$(BIN)/python bench/report.py

# Built beside the venv's own setuptools and pybind11, so that a changed C++ file is rebuilt
# without the network. (The isolated build is what `pip install .` does; .ci/run checks it.)
$(INSTALLED): pyproject.toml setup.py $(wildcard csrc/*.cpp csrc/*.h)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'setuptools>=77' 'pybind11>=2.13'
	$(BIN)/python -m pip install --no-build-isolation --editable '.[test,dev]'
	touch $@
