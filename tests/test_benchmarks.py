# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The numbers of the docs are those of stored runs."""

import json

from benchmarks import report


def test_tables_are_made_from_the_stored_runs():
    text = report.PAGE.read_text()
    assert report.page(text) == text
    assert report.page(text.replace("| decode |", "| other |")) == text


def test_a_run_says_what_it_was_measured_on():
    for path in (report.ROOT / "results").glob("*.json"):
        meta = json.loads(path.read_text())["meta"]
        assert {"commit", "device", "jax", "date", "read_tbps"} <= meta.keys()
        assert not meta["commit"].endswith("-dirty")
