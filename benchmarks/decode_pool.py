# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Queries and caches of a decode cell, drawn on the device."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import decode_cells
from jaxinfer.testing.cases import AttentionCase

_BLOCK = 2**22  # elements drawn at once: more would need as many 32-bit random numbers


@functools.partial(jax.jit, static_argnames=("shape", "dtype"))
def normal(key: jax.Array, shape: tuple[int, ...], scale: float, dtype: str) -> Any:
    """Normal numbers, for arrays of any size."""
    size = math.prod(shape)
    if size <= _BLOCK:
        return jax.random.normal(key, shape, dtype) * jnp.asarray(scale, dtype)
    keys = jax.random.split(key, -(-size // _BLOCK))
    draw = lambda k: jax.random.normal(k, (_BLOCK,), dtype)  # noqa: E731
    drawn = jax.lax.map(draw, keys).reshape(-1)[:size].reshape(shape)
    return drawn * jnp.asarray(scale, dtype)


@dataclasses.dataclass(frozen=True)
class Pool:
    """One pool of pages, and tables over distinct pages of it.

    Attributes:
      case: the cell.
      query: [B, N, H].
      k_pages: [P, page_size, K, H].
      v_pages: [P, page_size, K, H].
      tables: i32[B, longest] each, one per cache that calls take in turn.
      kv_lens: i32[B].
    """

    case: AttentionCase
    query: jax.Array
    k_pages: jax.Array
    v_pages: jax.Array
    tables: list[jax.Array]
    kv_lens: jax.Array

    @classmethod
    def create(cls, case: AttentionCase, calls: int) -> "Pool":
        """Draws everything that the calls of a program read."""
        count = decode_cells.num_rotated(case, calls)
        num_pages, tables = decode_cells.page_tables(case, count)
        assert case.page_size is not None
        shape = (num_pages, case.page_size, case.num_kv_heads, case.head_dim)
        q_key, k_key, v_key = jax.random.split(jax.random.key(case.seed), 3)
        q_shape = (case.batch, case.num_q_heads, case.head_dim)
        return cls(
            case,
            normal(q_key, q_shape, 1.0, case.dtype),
            normal(k_key, shape, 1.0, case.dtype),
            normal(v_key, shape, decode_cells.value_scale(case), case.dtype),
            [jnp.asarray(table) for table in tables],
            jnp.asarray(case.make_lengths()[1]),
        )

    def keys_of(self, cache: int, seq: int) -> tuple[np.ndarray, np.ndarray]:
        """K and V of a sequence, [kv_len, checked KV heads, H], on the host."""
        kv_len = int(self.case.make_lengths()[1][seq])
        heads, _ = decode_cells.checked_heads(self.case)
        table = self.tables[cache][seq]  # whole, so that one program serves all
        k, v = _gather(self.k_pages, self.v_pages, table, tuple(heads))
        return np.asarray(k)[:kv_len], np.asarray(v)[:kv_len]


@functools.partial(jax.jit, static_argnames="heads")
def _gather(k_pages, v_pages, pages, heads):
    rows = (x[pages][:, :, list(heads)] for x in (k_pages, v_pages))
    return [x.reshape(-1, *x.shape[2:]) for x in rows]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """How one implementation computes a cell.

    Attributes:
      call: (query, shared, buffer) -> out [B, N, H].
      shared: operands of all calls.
      buffers: operands of one call each, taken in turn.
      keys_of: (index of a buffer, sequence) -> K and V as Pool.keys_of gives them.
    """

    call: Callable[[Any, Any, Any], Any]
    shared: Any
    buffers: list[Any]
    keys_of: Callable[[int, int], tuple[np.ndarray, np.ndarray]]


def check(pool: Pool, prepared: Prepared) -> float:
    """Holds a few sequences against float64; returns the largest error."""
    call = jax.jit(prepared.call)
    seqs = decode_cells.checked_seqs(pool.case)
    _, heads = decode_cells.checked_heads(pool.case)
    rows = np.ix_(seqs, heads)
    query = np.asarray(pool.query)[rows]
    errors = []
    for cache in decode_cells.checked_caches(pool.case, len(prepared.buffers)):
        out = call(pool.query, prepared.shared, prepared.buffers[cache])
        keys = [prepared.keys_of(cache, seq) for seq in seqs]
        error = decode_cells.max_error(
            np.asarray(out)[rows], query, [k for k, _ in keys], [v for _, v in keys]
        )
        errors.append(error)
    return max(errors)
