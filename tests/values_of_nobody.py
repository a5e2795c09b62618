# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""A ragged batch with rows that see no key, and with NaN in rows of nobody."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxinfer as ji
from jaxinfer.testing.numerics import assert_attention_close, attention_float64

# The first sequence has no queries, the second more queries than keys.
Q_LENS, KV_LENS, NUM_ROWS = (0, 200, 150), (130, 20, 700), 900
STALE = (130, 2000, 3000)  # what a plan may have been made for: parts without keys


def check(planned_lens=KV_LENS, config=None, implementation=None) -> None:
    """Calls ragged_attention in bfloat16, and compares it with float64."""
    cu_q_lens, cu_kv_lens = (
        np.concatenate([[0], np.cumsum(lens)]).astype(np.int32)
        for lens in (Q_LENS, KV_LENS)
    )
    keys = jax.random.split(jax.random.key(0), 3)
    query, key, value = (
        np.array(jax.random.normal(k, (rows, heads, 128), jnp.bfloat16))
        for k, rows, heads in zip(
            keys, (cu_q_lens[-1], NUM_ROWS, NUM_ROWS), (8, 2, 2), strict=True
        )
    )
    operands = {
        "query": query,
        "key": key,
        "value": value,
        "cu_q_lens": cu_q_lens,
        "cu_kv_lens": cu_kv_lens,
    }
    expected = attention_float64(operands)
    for x in (key, value):
        x[: KV_LENS[0]] = x[cu_kv_lens[-1] :] = np.nan
    plan = ji.plan(
        cu_q_lens,
        np.array(planned_lens, np.int32),
        num_tokens=query.shape[0],
        max_kv_len=max(planned_lens),
        num_q_heads=8,
        num_kv_heads=2,
        head_dim=128,
        config=config,
    )
    out, lse = ji.ragged_attention(
        **jax.device_put(operands),
        plan=plan,
        return_lse=True,
        implementation=implementation,
    )
    assert_attention_close(out, lse, expected)
