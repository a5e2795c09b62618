# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Sharded decoding inside shard_map, on eight virtual CPU devices.

The number of devices is fixed when JAX starts, so sharding_checks.py runs in a process
of its own, once; each test judges a part of what it found.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxinfer as ji

SCRIPT = Path(__file__).with_name("sharding_checks.py")
SETUPS = (
    "heads_8_over_8",
    "heads_16_over_8",
    "heads_2_over_8",
    "batch_over_8",
    "batch_over_2_heads_over_4",
)
KINDS = ("Auto-checked", "Auto-unchecked", "Explicit-checked", "Explicit-unchecked")


@pytest.fixture(scope="module")
def facts() -> dict:
    paths = [str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, SCRIPT],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("setup", SETUPS)
def test_decoding_is_exact_and_in_place_without_collectives(facts, setup, kind):
    found = facts[f"{setup}-{kind}"]
    assert found["outputs_equal"]
    assert found["k_equal"]
    assert found["v_equal"]
    assert found["cache_is_sharded"]
    assert found["collectives"] == []
    assert found["donated"]
    assert found["smallest_operand"] > 0  # jaxlib 0.11.2 crashes on an empty one
    assert found["bytes_not_aliased"] <= 0
    assert found["writes_of_the_cache"] == []
    assert found["temporary_bytes"] < found["bytes_of_cache"] / 2


@pytest.mark.parametrize("kind", ["Auto-unchecked", "Explicit-checked"])
def test_ops_without_a_cache(facts, kind):
    found = facts[f"other_ops-{kind}"]
    assert found["ragged_attention"] <= 1e-6
    assert found["dot_product_attention"] <= 1e-6
    assert found["merge_partials"] <= 2e-6
    assert found["gradients"] <= 1e-5
    assert found["gradients_of_parts"] <= 3e-5


def test_the_check_sees_a_collective(facts):
    assert facts["without_shard_map"]["equal"]
    assert "all-gather" in facts["without_shard_map"]["collectives"]


def test_a_shard_never_spans_two_head_groups():
    sizes = {"num_layers": 1, "num_pages": 2, "page_size": 4, "head_dim": 64}
    with pytest.raises(ValueError, match="got 4 shards for 6 KV heads"):
        ji.PagedKVCache.create(num_kv_heads=6, num_shards=4, **sizes)
    cache = ji.PagedKVCache.create(num_kv_heads=2, num_shards=8, **sizes)
    assert cache.k_pages.shape == (1, 2, 4, 8, 64)
