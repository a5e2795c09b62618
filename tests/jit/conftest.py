# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Tests of run-time compilation: few need NVRTC, and say so if it is missing."""

import pytest

from jaxinfer import jit


def pytest_configure(config):
    config.addinivalue_line("markers", "nvrtc: needs libnvrtc (skipped elsewhere)")


def pytest_collection_modifyitems(items):
    try:
        jit.find_nvrtc()
    except jit.NvrtcUnavailable as error:
        skip = pytest.mark.skip(reason=f"needs NVRTC. {error}")
        for item in items:
            if "nvrtc" in item.keywords:
                item.add_marker(skip)


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum("nvrtc" in report.keywords for report in skipped)
    if count:
        terminalreporter.write_line(
            f"{count} NVRTC tests were NOT run: install nvidia-cuda-nvrtc, or set "
            "JAXINFER_NVRTC",
            yellow=True,
        )


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    """No test touches the cache of whoever runs it."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("JAXINFER_CACHE_DIR", str(folder))
    return folder
