# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Reports the bad contents that the ops mask or clamp: lengths and page numbers.

Data cannot raise under jit. To see where bad data comes from, call check_pages before
the op, in the same function, and run that through checkify:

    error, result = jax.jit(checkify.checkify(step))(...)
    error.throw()  # kv_lens[3] must be in [0, 64], got 65

Outside jit it raises at once. Under jit without checkify, JAX refuses to trace it.
"""

from typing import Any

import jax.numpy as jnp
from jax.experimental import checkify

from jaxinfer import _check


def check_pages(
    page_table: Any,
    kv_lens: Any,
    cu_q_lens: Any = None,
    *,
    num_tokens: int,
    num_pages: int,
    page_size: int,
    page_indptr: Any = None,
) -> None:
    """Checks the contents of page lists and lengths; texts name sequence and value.

    Args:
      page_table: i32[B, max_pages], or i32[num_indices] with page_indptr. Entries that
        hold keys must be in [0, num_pages).
      kv_lens: i32[B], at most what the page list of the sequence holds.
      cu_q_lens: i32[B + 1], ascending from 0 to at most T; None = one token each.
      num_tokens: T, the rows of `query`.
      num_pages: P.
      page_size: tokens in a page.
      page_indptr: i32[B + 1], offsets into page_table for the CSR form.

    Raises:
      ValueError: for shapes that do not fit.
      checkify.JaxRuntimeError: for contents; under checkify, by error.throw().
    """
    page_table, kv_lens = jnp.asarray(page_table), jnp.asarray(kv_lens)
    if cu_q_lens is None:
        cu_q_lens = jnp.arange(kv_lens.shape[0] + 1, dtype=jnp.int32)
    cu_q_lens = jnp.asarray(cu_q_lens)
    sizes: dict[str, int] = {}
    _check.shape("kv_lens", kv_lens, "B", sizes=sizes)
    _check.shape("cu_q_lens", cu_q_lens, "B+1", sizes=sizes)
    _check.not_empty(sizes, B="number of sequences")
    if page_indptr is None:
        _check.shape("page_table", page_table, "B", "max_pages", sizes=sizes)
        num_indices = page_table.size
        page_indptr = jnp.arange(sizes["B"] + 1) * sizes["max_pages"]
    else:
        _check.shape("page_table", page_table, "num_indices", sizes=sizes)
        page_indptr = jnp.asarray(page_indptr)
        _check.shape("page_indptr", page_indptr, "B+1", sizes=sizes)
        num_indices = sizes["num_indices"]
        _ascending("page_indptr", page_indptr, num_indices)
    _ascending("cu_q_lens", cu_q_lens, num_tokens)
    held = jnp.diff(jnp.clip(page_indptr, 0, num_indices))
    _in_range("kv_lens[{at}]", kv_lens, 0, jnp.maximum(held, 0) * page_size)
    if not num_indices:
        return
    # Entry i is page number i - page_indptr[seq] of the list that it belongs to.
    entry = jnp.arange(num_indices)
    seq = jnp.searchsorted(page_indptr[1:], entry, side="right")
    seq = jnp.minimum(seq, sizes["B"] - 1)
    number = entry - page_indptr[seq]
    is_read = (number >= 0) & (number < held[seq]) & (number * page_size < kv_lens[seq])
    pages = jnp.where(is_read, page_table.ravel(), 0)
    name = "page {number} of sequence {seq}"
    _in_range(name, pages, 0, num_pages - 1, number=number, seq=seq)


def _ascending(name: str, offsets: Any, end: int) -> None:
    low = jnp.append(0, offsets[:-1])
    _in_range(name + "[{at}]", offsets, low, jnp.full_like(low, end).at[0].set(0))


def _in_range(name: str, array: Any, low: Any, high: Any, **values: Any) -> None:
    """Fails at the first element outside [low, high]."""
    at = jnp.argmax((array < low) | (array > high))
    values |= {"got": array, "low": low, "high": high}
    values = {k: jnp.broadcast_to(v, array.shape)[at] for k, v in values.items()}
    good = (values["low"] <= values["got"]) & (values["got"] <= values["high"])
    checkify.check(
        good, name + " must be in [{low}, {high}], got {got}", at=at, **values
    )
