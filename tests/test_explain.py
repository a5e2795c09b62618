# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""explain: kernels, tiles, plan and limits of a problem, without a GPU."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxinfer as ji
from jaxinfer import variants

HEADS = {"num_q_heads": 32, "num_kv_heads": 8, "head_dim": 128}
HOPPER, AMPERE = ji.PlanConfig.gpu(), ji.PlanConfig.gpu("sm_80", 108)
PROMPTS = np.arange(17) * 1024, np.full(16, 1024)
DECODE = None, np.full(64, 4096)
MIXED = np.array([0, 512, 513, 514]), np.array([8192, 4000, 100])


def kernels(*lengths, config=HOPPER, **given):
    found = ji.explain(*lengths, **HEADS | given, config=config)
    return [(tile.kernel, tile.rows) for tile in found.tiles]


SHORT, LONG, OLDER = ("attention", 16), ("attention_hopper", 128), ("attention", 128)


@pytest.mark.parametrize(
    ("lengths", "given", "expected"),
    [
        (PROMPTS, {}, [SHORT, LONG]),
        (MIXED, {"page_size": 16}, [SHORT, LONG]),
        (MIXED, {"page_size": 5}, [SHORT, LONG]),
        (MIXED, {"page_size": 16, "config": AMPERE}, [SHORT, OLDER]),
        (MIXED, {"head_dim": 256}, [SHORT, LONG]),
        (MIXED, {"head_dim": 256, "config": AMPERE}, [SHORT, ("attention", 64)]),
        (MIXED, {"head_dim": 192, "head_dim_v": 64}, [SHORT, OLDER]),
        (MIXED, {"variant": variants.rope(128)}, [SHORT, LONG]),
        (DECODE, {"page_size": 16}, [("attention", 8)]),
        (DECODE, {"dtype": jnp.float32}, []),
        (
            DECODE,
            {"config": ji.PlanConfig.cpu(2)},
            [("CPU kernel", n) for n in (16, 64)],
        ),
    ],
)
def test_kernels(lengths, given, expected):
    assert kernels(*lengths, **given) == expected


def test_work_and_what_limits_it():
    prompts = ji.explain(*PROMPTS, **HEADS, config=HOPPER)
    assert prompts.flops == 16 * 32 * (1024 * 1025 // 2) * 4 * 128
    assert prompts.num_bytes == 16 * 1024 * 256 * 2 * (32 + 8)
    assert prompts.bound == "compute"
    assert prompts.least_seconds == pytest.approx(prompts.flops / 989e12)
    decode = ji.explain(*DECODE, **HEADS, config=HOPPER)
    assert (decode.bound, decode.plan.header[1] > 0) == ("memory", True)
    assert ji.explain(*DECODE, **HEADS, config=ji.PlanConfig.cpu(2)).bound is None


def test_a_window_leaves_keys_out():
    lengths = np.array([0, 2, 4]), np.array([100, 1])
    found = ji.explain(*lengths, **HEADS, local_window_size=(9, 0), config=HOPPER)
    # Rows at 98 and 99 see 10 keys each, 11 together; of the other two one sees one.
    assert found.flops == (2 * 10 + 1) * 32 * 4 * 128
    assert found.num_bytes == 2 * 256 * (4 * 32 + (11 + 1) * 8)


def test_the_text():
    lines = str(ji.explain(*PROMPTS, **HEADS, page_size=16, config=HOPPER)).split(
        "\n  "
    )
    assert lines[0] == "for sm_90a"
    assert lines[2].startswith(
        "attention_hopper: 128 packed rows (32 tokens), 128 keys"
    )
    assert lines[3] == (
        "plan: 4096 items of prefill on 132 of 132 CTAs, none split, "
        "taken as CTAs become free"
    )
    assert lines[-1] == "bound: compute, at least 139 us"
    mixed = np.cumsum([0, *[1] * 128, 512]), np.full(129, 4096)
    assert "items of decode on 264 of 264 CTAs and " in str(
        ji.explain(*mixed, **HEADS, page_size=16, config=HOPPER)
    )
    reference = str(ji.explain(*DECODE, **HEADS, dtype=jnp.float32, config=HOPPER))
    assert "no kernel does this" in reference


def test_errors_are_those_of_plan_and_op():
    with pytest.raises(ValueError, match="multiple of the number of KV heads"):
        ji.explain(*DECODE, num_q_heads=7, num_kv_heads=2, head_dim=64)
    with pytest.raises(ValueError, match="cu_q_lens"):
        ji.explain(np.arange(4), np.ones(2), **HEADS)
    with pytest.raises(ValueError, match="variant must be"):
        ji.explain(*DECODE, **HEADS, variant="causal")
