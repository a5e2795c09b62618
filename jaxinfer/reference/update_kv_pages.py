# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Reference of update_kv_pages: slots, then a scatter."""

import jax.numpy as jnp

from jaxinfer.reference.attention import token_places
from jaxinfer.reference.ragged_paged_attention import one_layer


def token_slots(
    page_table, page_indptr, kv_lens, cu_q_lens, *, num_tokens, num_pages, page_size
):
    """i32[T]: page * page_size + offset of every new token, -1 where there is none."""
    seq, position, is_real = token_places(kv_lens, cu_q_lens, num_tokens)
    index = position // page_size
    if page_table.ndim == 2:
        width = page_table.shape[1]
        held = jnp.full_like(index, width)
        entry = jnp.clip(index, 0, max(width - 1, 0))
        page = page_table[seq, entry] if width else jnp.full_like(index, -1)
    else:
        size = page_table.shape[0]
        bounds = jnp.clip(page_indptr, 0, size)
        held = bounds[seq + 1] - bounds[seq]
        entry = jnp.clip(bounds[seq] + index, 0, max(size - 1, 0))
        page = page_table[entry] if size else jnp.full_like(index, -1)
    is_held = is_real & (position >= 0) & (index < held)
    in_cache = is_held & (page >= 0) & (page < num_pages)
    return jnp.where(in_cache, page * page_size + position % page_size, -1)


def update_kv_pages(
    k_pages, v_pages, key, value, slot_mapping, page_table, page_indptr, kv_lens,
    cu_q_lens, layer, *, implementation,
):  # fmt: skip
    """Operands as in the op."""
    shapes = k_pages.shape, v_pages.shape
    k_pages, v_pages, layer = one_layer(k_pages, v_pages, layer)
    num_pages, page_size = k_pages.shape[1:3]
    if not slot_mapping.size:
        slot_mapping = token_slots(
            page_table,
            page_indptr,
            kv_lens,
            cu_q_lens,
            num_tokens=key.shape[0],
            num_pages=num_pages,
            page_size=page_size,
        )
    # Slots outside the cache become page P, which the scatter drops.
    in_cache = (slot_mapping >= 0) & (slot_mapping < num_pages * page_size)
    page = jnp.where(in_cache, slot_mapping // page_size, num_pages)
    offset = slot_mapping % page_size
    return [
        pages.at[layer, page, offset].set(tokens, mode="drop").reshape(shape)
        for pages, tokens, shape in zip(
            (k_pages, v_pages), (key, value), shapes, strict=True
        )
    ]
