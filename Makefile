# make demo | test | lint | bench | gpu. Everything lives in .venv; nothing needs the network once it is
# complete. Another Python: make demo PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/cerebsim-installed

.PHONY: demo test lint bench gpu
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(BIN)/cerebsim reproduce table2 --data digits --out runs/demo

# Two processes share the cores: the threads of one must not wait awake while the other could work.
test: $(INSTALLED)
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(INSTALLED)
	$(BIN)/python bench/report.py

# On a machine with a GPU and nvcc: builds, tests, sanitizes, measures. Results go to OUT. A machine
# without the network, but with torch: make gpu GPU_PYTHON=python3.
GPU_PYTHON ?= $(BIN)/python
OUT ?= bench/results
SANITIZE := compute-sanitizer --error-exitcode 1 --print-limit 20

gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(INSTALLED))
	CEREBSIM_CUDA=1 $(GPU_PYTHON) -m pip install --no-build-isolation --no-deps --editable .
	$(GPU_PYTHON) -m pytest -m gpu -q $(shell grep -l mark.gpu tests/*.py)
	$(SANITIZE) --tool memcheck $(GPU_PYTHON) tests/sanitized.py
	$(SANITIZE) --tool racecheck $(GPU_PYTHON) tests/sanitized.py
	$(SANITIZE) --tool synccheck $(GPU_PYTHON) tests/sanitized.py
	$(SANITIZE) --tool initcheck --kernel-regex kns=cerebsim $(GPU_PYTHON) tests/sanitized.py
	$(GPU_PYTHON) bench/report.py --device cuda --out $(OUT)
	$(GPU_PYTHON) bench/mnist.py --device cuda --out $(OUT)

# Built beside the venv's own setuptools and pybind11, so that a changed C++ file is rebuilt
# without the network. (The isolated build is what `pip install .` does; .ci/run checks it.)
$(INSTALLED): pyproject.toml setup.py $(wildcard csrc/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'setuptools>=77' 'pybind11>=2.13'
	$(BIN)/python -m pip install --no-build-isolation --editable '.[test,dev]'
	$(BIN)/python -m pip install --quiet --no-deps torchattacks  # it pins an old requests
	touch $@
