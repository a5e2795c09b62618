# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Reference of ragged_attention: a window onto the keys of each sequence."""

import jax.numpy as jnp

from jaxinfer.reference.attention import attend


def ragged_attention(
    query, key, value, kv_starts, kv_lens, cu_q_lens, k_scale, v_scale, sink, plan,
    *arrays, options, facts, implementation,
):  # fmt: skip
    """Operands as in the op; sequence b's keys start at row kv_starts[b]."""
    num_keys = key.shape[0]

    def keys_of(seq):
        rows = kv_starts[seq] + jnp.arange(num_keys)
        exists = (rows >= 0) & (rows < num_keys)
        rows = jnp.where(exists, rows, 0)
        return key[rows], value[rows], exists

    return attend(
        query,
        keys_of,
        jnp.maximum(kv_lens, 0),
        cu_q_lens,
        k_scale,
        v_scale,
        sink,
        num_keys=num_keys,
        head_dim_v=value.shape[-1],
        options=options,
        arrays=arrays,
    )
