# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""examples/custom_variant.py, as a user runs it."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*arguments):
    return subprocess.run(
        [sys.executable, ROOT / "examples/custom_variant.py", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )


def largest_differences(printed):
    """Of results, and of derivatives."""
    found = re.findall(r"^largest difference +(\S+)$", printed, re.MULTILINE)
    assert len(found) == 2
    return [float(number) for number in found]


def test_equals_dense_attention():
    done = run("--implementation", "xla", "--dtype", "float32", "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^implementation +xla, float32$", done.stdout, re.MULTILINE)
    results, derivatives = largest_differences(done.stdout)
    assert results < 1e-5
    assert derivatives < 1e-5


def test_draws(tmp_path):
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed")
    path = tmp_path / "heads.png"
    done = run("--out", path)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes().startswith(b"\x89PNG")
    assert f"wrote                {path}" in done.stdout


def test_refuses_an_implementation_without_variants():
    done = run("--implementation", "cpu")
    assert done.returncode == 2
    assert "invalid choice: 'cpu'" in done.stderr
