# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Reference of rope_update_kv_pages: rope, then update_kv_pages."""

import jax.numpy as jnp

from jaxinfer.reference.attention import token_places
from jaxinfer.reference.rope import rope
from jaxinfer.reference.update_kv_pages import update_kv_pages


def token_positions(kv_lens, cu_q_lens, *, num_tokens):
    """i32[T]: kv_len - q_len + i for token i of a sequence, 0 for padding rows."""
    _, positions, is_real = token_places(kv_lens, cu_q_lens, num_tokens)
    return jnp.where(is_real, positions, 0)


def rope_update_kv_pages(
    query, k_pages, v_pages, key, value, slot_mapping, page_table, page_indptr,
    kv_lens, cu_q_lens, layer, positions, frequencies,
    *, is_interleaved, implementation,
):  # fmt: skip
    """Operands as in the op; positions i32[T], or empty: those of the lengths."""
    if not positions.size:
        positions = token_positions(kv_lens, cu_q_lens, num_tokens=query.shape[0])
    options = {"is_interleaved": is_interleaved, "implementation": implementation}
    (query,) = rope(query, positions, frequencies, **options)
    (key,) = rope(key, positions, frequencies, **options)
    lists = slot_mapping, page_table, page_indptr, kv_lens, cu_q_lens, layer
    pages = update_kv_pages(
        k_pages, v_pages, key, value, *lists, implementation=implementation
    )
    return [query, *pages]
