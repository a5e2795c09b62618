# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""What all tests share: the CPU unless asked otherwise, long runs, GPU tests."""

import os

# Before jax is imported, and for the processes that tests start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import pytest

# The same examples in every run; --exhaustive runs draw new ones.
hypothesis.settings.register_profile(
    "default", derandomize=True, deadline=None, database=None, print_blob=True
)
hypothesis.settings.load_profile("default")


def pytest_addoption(parser):
    parser.addoption("--exhaustive", action="store_true", help="long property runs")


def pytest_collection_modifyitems(config, items):
    has_gpu = jax.default_backend() == "gpu"
    for item in items:
        if "exhaustive" in item.keywords and not config.getoption("--exhaustive"):
            item.add_marker(pytest.mark.skip(reason="needs --exhaustive"))
        if "gpu" in item.keywords and not has_gpu:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


def pytest_terminal_summary(terminalreporter):
    """A run without a GPU says so: green here is not green there."""
    skipped = terminalreporter.stats.get("skipped", [])
    num_gpu = sum("gpu" in report.keywords for report in skipped)
    if num_gpu:
        terminalreporter.write_line(
            f"{num_gpu} GPU tests were NOT run: this machine has no GPU", yellow=True
        )
