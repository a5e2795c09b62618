# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""What all tests share: the CPU unless asked otherwise, and what a machine may lack."""

import os
import shutil
import tempfile

# Before jax is imported, and for the processes that tests start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if os.environ["JAX_PLATFORMS"] == "cpu":
    # Most of the time went into compiling programs that run once. XLA_FLAGS= in the
    # environment compiles them as users do.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Or each worker would multiply matrices with as many threads as there are cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import jax
import pytest

from jaxinfer import jit

# The same examples in every run; --exhaustive runs draw new ones.
hypothesis.settings.register_profile(
    "default", derandomize=True, deadline=None, database=None, print_blob=True
)
hypothesis.settings.load_profile("default")

# By marker: what a test needs, and what to say at the end if it was not there.
NEEDS = {
    "gpu": ("an NVIDIA GPU", "this machine has no GPU"),
    "nvrtc": ("NVRTC", "install nvidia-cuda-nvrtc, or set JAXINFER_NVRTC"),
}


def pytest_addoption(parser):
    parser.addoption("--exhaustive", action="store_true", help="long property runs")


def pytest_configure(config):
    """Without a GPU, no test touches the kernels of whoever runs it."""
    if os.environ["JAX_PLATFORMS"] == "cpu" and "JAXINFER_CACHE_DIR" not in os.environ:
        config.kernel_cache = tempfile.mkdtemp(prefix="jaxinfer-tests-")
        os.environ["JAXINFER_CACHE_DIR"] = config.kernel_cache


def pytest_unconfigure(config):
    if hasattr(config, "kernel_cache"):
        shutil.rmtree(config.kernel_cache, ignore_errors=True)


def missing() -> dict[str, str]:
    """Markers of what this machine lacks, and why tests that need it are skipped."""
    reasons = {}
    if jax.default_backend() != "gpu":
        reasons["gpu"] = _need("gpu")
    try:
        jit.find_nvrtc()
    except jit.NvrtcUnavailable as error:
        reasons["nvrtc"] = f"{_need('nvrtc')}. {error}"
    return reasons


def _need(marker: str) -> str:
    return f"needs {NEEDS[marker][0]}"


def pytest_collection_modifyitems(config, items):
    reasons = missing()
    if not config.getoption("--exhaustive"):
        reasons["exhaustive"] = "needs --exhaustive"
    for item in items:
        for marker, reason in reasons.items():
            if marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter):
    """A run without them says so: green here is not green there."""
    skipped = terminalreporter.stats.get("skipped", [])
    for marker, (what, hint) in NEEDS.items():
        count = sum(_need(marker) in report.longrepr[2] for report in skipped)
        if count:
            terminalreporter.write_line(
                f"{count} tests that need {what} were NOT run: {hint}", yellow=True
            )
