# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Decode attention by what JAX users have today: XLA, cuDNN, Pallas, FA3."""

import functools
import importlib
import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import decode_cells
from benchmarks.decode_pool import Pool, Prepared, normal

MOST_DENSE_BYTES = 24e9  # of one padded cache


def paged_xla(query: Any, k: Any, v: Any, table: Any, kv_lens: Any) -> jax.Array:
    """Gathers the pages of a batch, then attends: plain jnp, [B, N, H] -> [B, N, H]."""
    return _attend(query, k[table], v[table], kv_lens)


def _attend(query: Any, k: Any, v: Any, kv_lens: Any) -> jax.Array:
    batch, num_heads, head_dim = query.shape
    k, v = (x.reshape(batch, -1, *x.shape[-2:]) for x in (k, v))
    q = query.reshape(batch, k.shape[-2], -1, head_dim)
    scores = jnp.einsum("bkgh,bskh->bkgs", q, k, preferred_element_type=jnp.float32)
    visible = jnp.arange(k.shape[1]) < kv_lens[:, None]
    scores = jnp.where(visible[:, None, None], scores * head_dim**-0.5, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bkgs,bskh->bkgh", weights, v, preferred_element_type=jnp.float32)
    return out.reshape(batch, num_heads, -1).astype(query.dtype)


def xla(pool: Pool) -> Prepared:
    """Gather and softmax on the same paged cache."""

    def call(query, shared, table):
        k_pages, v_pages, kv_lens = shared
        return paged_xla(query, k_pages, v_pages, table, kv_lens)

    shared = (pool.k_pages, pool.v_pages, pool.kv_lens)
    return Prepared(call, shared, pool.tables, pool.keys_of)


def pallas(pool: Pool) -> Prepared:
    """jax.experimental.pallas.ops.gpu.paged_attention, split as the batch asks for."""
    case = pool.case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = "jax.experimental.pallas.ops.gpu.paged_attention"
        op = importlib.import_module(name).paged_attention
    splits = 16
    while splits > 1 and case.batch * case.num_kv_heads * splits > 4 * 132:
        splits //= 2
    pages_at_once = 8
    multiple = splits * pages_at_once
    pad = -pool.tables[0].shape[1] % multiple
    tables = [jnp.pad(table, ((0, 0), (0, pad))) for table in pool.tables]
    # It scales no scores, and wants the heads outside.
    scale = jnp.asarray(case.head_dim**-0.5, case.dtype)
    shared = (
        (pool.k_pages * scale).transpose(2, 0, 1, 3),
        pool.v_pages.transpose(2, 0, 1, 3),
        pool.kv_lens,
    )

    def call(query, shared, table):
        return op(
            query,
            shared[0],
            shared[1],
            table,
            shared[2],
            k_splits=splits,
            pages_per_compute_block=pages_at_once,
        )

    return Prepared(call, shared, tables, pool.keys_of)


def _dense(pool: Pool, implementation: str) -> Prepared:
    """jax.nn.dot_product_attention on a cache padded to the longest sequence."""
    case = pool.case
    kv_lens = case.make_lengths()[1]
    shape = (case.batch, int(kv_lens.max()), case.num_kv_heads, case.head_dim)
    num_bytes = 4 * math.prod(shape)
    if num_bytes > MOST_DENSE_BYTES:
        raise NotImplementedError(f"a padded cache of {num_bytes / 1e9:.0f} GB")
    keys = jax.random.split(jax.random.key(case.seed), 2 * len(pool.tables))
    scale = decode_cells.value_scale(case)
    caches = [
        (normal(k, shape, 1.0, case.dtype), normal(v, shape, scale, case.dtype))
        for k, v in zip(keys[::2], keys[1::2], strict=True)
    ]

    def call(query, kv_lens, cache):
        ones = jnp.ones_like(kv_lens)
        op: Any = jax.nn.dot_product_attention
        out = op(
            query[:, None],
            *cache,
            query_seq_lengths=ones if implementation == "cudnn" else None,
            key_value_seq_lengths=kv_lens,
            implementation=implementation,
        )
        return out[:, 0]

    heads, _ = decode_cells.checked_heads(case)

    def keys_of(cache, seq):
        k, v = (np.asarray(_rows(x, seq, tuple(heads))) for x in caches[cache])
        return k[: kv_lens[seq]], v[: kv_lens[seq]]

    return Prepared(call, pool.kv_lens, caches, keys_of)


@functools.partial(jax.jit, static_argnames="heads")
def _rows(x: jax.Array, seq: Any, heads: tuple[int, ...]) -> jax.Array:
    return x[seq][:, list(heads)]


def cudnn(pool: Pool) -> Prepared:
    """jax.nn's cuDNN attention on a padded cache."""
    return _dense(pool, "cudnn")


def dense_xla(pool: Pool) -> Prepared:
    """jax.nn's XLA attention on a padded cache."""
    return _dense(pool, "xla")


def flash_attn3(pool: Pool, num_splits: int = 8) -> Prepared:
    """flash_attn3_jax on the same paged cache."""
    op: Any = importlib.import_module("flash_attn3_jax").flash_mha_with_kvcache

    def call(query, shared, table):
        out = op(
            query[:, None],
            shared[0],
            shared[1],
            cache_seqlens=shared[2],
            page_table=table,
            num_splits=num_splits,
        )
        return out[:, 0]

    shared = (pool.k_pages, pool.v_pages, pool.kv_lens)
    return Prepared(call, shared, pool.tables, pool.keys_of)
