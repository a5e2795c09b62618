# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Reference of ragged_paged_attention: gather the pages, then plain attention."""

import jax
import jax.numpy as jnp

from jaxinfer.reference.attention import attend


def one_layer(k_pages: jax.Array, v_pages: jax.Array, layer: jax.Array):
    """(k_pages, v_pages, layer) as [L, P, page_size, K, H] and i32[].

    Without a layer all leading axes together count pages.
    """
    if layer.size:
        return k_pages, v_pages, jnp.clip(layer, 0, k_pages.shape[0] - 1)
    flat = (x.reshape(1, -1, *x.shape[-3:]) for x in (k_pages, v_pages))
    return *flat, jnp.zeros((), jnp.int32)


def page_ids(page_table: jax.Array, page_indptr: jax.Array, seq: jax.Array):
    """The page list of a sequence, padded, and which entries belong to it."""
    if page_table.ndim == 2:
        return page_table[seq], jnp.ones(page_table.shape[1], bool)
    size = page_table.shape[0]
    begin = jnp.clip(page_indptr[seq], 0, size)
    index = begin + jnp.arange(size)
    belongs = index < jnp.clip(page_indptr[seq + 1], 0, size)
    return page_table[jnp.where(belongs, index, 0)], belongs


def ragged_paged_attention(
    query, k_pages, v_pages, page_table, page_indptr, kv_lens, cu_q_lens, layer,
    k_scale, v_scale, sink, plan, *arrays, options, facts, implementation,
):  # fmt: skip
    """Operands as in the op; ignores the plan."""
    k_pages, v_pages, layer = one_layer(k_pages, v_pages, layer)
    num_pages, page_size = k_pages.shape[1:3]
    num_keys = page_table.shape[-1] * page_size

    def keys_of(seq):
        ids, exists = page_ids(page_table, page_indptr, seq)
        exists &= (ids >= 0) & (ids < num_pages)
        ids = jnp.where(exists, ids, 0)
        k = k_pages[layer, ids].reshape(num_keys, *k_pages.shape[3:])
        v = v_pages[layer, ids].reshape(num_keys, *v_pages.shape[3:])
        return k, v, jnp.repeat(exists, page_size)

    return attend(
        query,
        keys_of,
        jnp.maximum(kv_lens, 0),
        cu_q_lens,
        k_scale,
        v_scale,
        sink,
        num_keys=num_keys,
        head_dim_v=v_pages.shape[-1],
        options=options,
        arrays=arrays,
    )
