# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Reference of dot_product_attention: dense scores, one mask."""

import jax
import jax.numpy as jnp


def dot_product_attention(
    query, key, value, bias, mask, kv_starts, kv_lens, cu_q_lens,
    *, options, facts, implementation,
):  # fmt: skip
    """Operands as in the op; -inf and 0 in rows where nothing is visible."""
    batch, num_queries, num_heads, head_dim = query.shape
    num_keys, num_kv_heads = key.shape[1:3]
    q = query.reshape(batch, num_queries, num_kv_heads, -1, head_dim)
    scores = jnp.einsum(
        "btkgh,bskh->bkgts",
        q.astype(jnp.float32),
        key.astype(jnp.float32),
        precision="highest",
    ).reshape(batch, num_heads, num_queries, num_keys)
    scores *= options.scale
    if bias.size:
        scores += bias
    row, col = jnp.arange(num_queries)[:, None], jnp.arange(num_keys)
    left, right = options.window
    visible = (row - col <= left) & (col - row <= right)
    if options.is_causal:
        visible &= col <= row
    visible = visible & (col < kv_lens[:, None, None, None])
    if mask.size:
        visible = visible & mask
    some = visible.any(-1, keepdims=True)
    m = jnp.where(visible, scores, -jnp.inf).max(-1, keepdims=True)
    m = jax.lax.stop_gradient(jnp.where(some, m, 0.0))
    p = jnp.where(visible, jnp.exp(jnp.where(visible, scores - m, 0.0)), 0.0)
    total = jnp.where(some, p.sum(-1, keepdims=True), 1.0)
    # Values past kv_lens are never read: they may hold anything.
    exists = jnp.arange(num_keys) < kv_lens[:, None]
    v = jnp.where(exists[..., None, None], value, 0).astype(jnp.float32)
    weights = (p / total).reshape(batch, num_kv_heads, -1, num_queries, num_keys)
    out = jnp.einsum("bkgts,bskh->btkgh", weights, v, precision="highest")
    lse = jnp.where(some, m + jnp.log(total), -jnp.inf)[..., 0].swapaxes(1, 2)
    out = out.reshape(batch, num_queries, num_heads, -1)
    return [out.astype(query.dtype), lse]
