# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Tests of run-time compilation, each with a cache of its own."""

import pytest


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    """No test meets what another one compiled."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("JAXINFER_CACHE_DIR", str(folder))
    return folder
