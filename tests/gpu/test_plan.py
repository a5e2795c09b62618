# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The planner on an NVIDIA GPU: the bits of the planner on the host."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import jaxinfer as ji

pytestmark = pytest.mark.gpu

GPU = ji.PlanConfig.gpu()
CONFIGS = {
    "gpu": GPU,
    "two_a_multiprocessor": dataclasses.replace(GPU, ctas_per_sm=2),
    "few_ctas": dataclasses.replace(GPU, num_ctas=9),
    "invariant": dataclasses.replace(GPU, batch_invariant=True, split_keys=256),
}


def lengths(rng, num_seqs, is_decode):
    q_lens = np.ones(num_seqs, int) if is_decode else rng.integers(0, 300, num_seqs)
    kv_lens = q_lens + rng.integers(0, rng.choice([10, 1000, 30000]), num_seqs)
    kv_lens[rng.random(num_seqs) < 0.1] = 0
    return np.cumsum([0, *q_lens]).astype(np.int32), kv_lens.astype(np.int32)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("num_seqs", [1, 7, 128, 3000])
@pytest.mark.parametrize("is_decode", [True, False])
def test_same_bits_as_on_the_host(config, num_seqs, is_decode):
    rng = np.random.default_rng(num_seqs)
    for window in (None, (100, None)):
        cu_q_lens, kv_lens = lengths(rng, num_seqs, is_decode)
        static = {
            "num_tokens": int(cu_q_lens[-1]) + (0 if is_decode else 20),
            "max_kv_len": 31000,
            "num_q_heads": 32,
            "num_kv_heads": 8,
            "head_dim": 128,
            "local_window_size": window,
            "config": CONFIGS[config],
        }
        static["num_tokens"] = max(static["num_tokens"], 1)
        want = ji.plan(cu_q_lens, kv_lens, **static)
        got = ji.plan(jnp.asarray(cu_q_lens), jnp.asarray(kv_lens), **static)
        np.testing.assert_array_equal(got.buffer, want.buffer)
        if is_decode:
            absent = ji.plan(None, jnp.asarray(kv_lens), **static)
            np.testing.assert_array_equal(absent.buffer, want.buffer)
