# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""What the ops that append to a cache share: their operands, checked."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinfer import _check
from jaxinfer._attention import absent
from jaxinfer.ops.ragged_paged_attention import check_layer, check_pages


def append_operands(
    op: str,
    k_pages: Any,
    v_pages: Any,
    key: Any,
    value: Any,
    page_table: Any,
    kv_lens: Any,
    cu_q_lens: Any,
    *,
    page_indptr: Any,
    slot_mapping: Any,
    layer: Any,
) -> tuple[tuple[jax.Array, ...], dict[str, int]]:
    """The ten operands of update_kv_pages in their order, and the sizes by letter.

    Args:
      op: the caller, for texts.
      k_pages: this and all that follow as in update_kv_pages.
      v_pages: values.
      key: new keys.
      value: new values.
      page_table: or None.
      kv_lens: or None.
      cu_q_lens: or None.
      page_indptr: or None.
      slot_mapping: or None.
      layer: or None.

    Raises:
      ValueError: as update_kv_pages does.
    """
    if (page_table is None) == (slot_mapping is None):
        raise ValueError(
            f"{op} needs either page_table (with kv_lens) or slot_mapping, "
            f"got {'neither' if page_table is None else 'both'}"
        )
    if page_table is not None and kv_lens is None:
        raise ValueError("kv_lens must be given together with page_table, got None")
    given = kv_lens, cu_q_lens, page_indptr
    if slot_mapping is not None and any(x is not None for x in given):
        raise ValueError(
            "slot_mapping takes the place of page_table, kv_lens, cu_q_lens and "
            "page_indptr, got some of these too"
        )
    key, value = jnp.asarray(key), jnp.asarray(value)
    k_pages, v_pages = jnp.asarray(k_pages), jnp.asarray(v_pages)
    is_stacked = layer is not None
    layer = check_layer(k_pages, v_pages, layer)
    if slot_mapping is not None:
        # The lists are not read; shapes of one empty sequence satisfy the checks.
        slots = jnp.asarray(slot_mapping)
        page_table, kv_lens = jnp.zeros((1, 0), jnp.int32), np.zeros(1, np.int32)
    else:
        slots = absent(jnp.int32)
        page_table, kv_lens = jnp.asarray(page_table), jnp.asarray(kv_lens)
        cu_q_lens = cu_q_lens if cu_q_lens is None else jnp.asarray(cu_q_lens)
        page_indptr = page_indptr if page_indptr is None else jnp.asarray(page_indptr)
    sizes = check_pages(
        k_pages, v_pages, page_table, page_indptr, kv_lens, cu_q_lens, is_stacked
    )
    _check.shape("key", key, "T", "K", "H", sizes=sizes)
    _check.shape("value", value, "T", "K", "Hv", sizes=sizes)
    _check.not_empty(sizes, T="number of tokens")
    _check.host_lengths(
        *given,
        num_tokens=sizes["T"],
        list_size=page_table.shape[-1],
        page_size=sizes["page_size"],
    )
    _check.same_dtype("key", key, "k_pages", k_pages)
    _check.same_dtype("value", value, "v_pages", v_pages)
    if slot_mapping is not None:
        _check.shape("slot_mapping", slots, "T", sizes=sizes)
        _check.int32("slot_mapping", slots)
        kv_lens = absent(jnp.int32)
    page_indptr = absent(jnp.int32) if page_indptr is None else page_indptr
    cu_q_lens = absent(jnp.int32) if cu_q_lens is None else cu_q_lens
    lists = slots, page_table, page_indptr, kv_lens, cu_q_lens
    return (k_pages, v_pages, key, value, *lists, layer), sizes
