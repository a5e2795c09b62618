# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Rotary embedding of queries and keys on a GPU, alone and on the way to the cache."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import jaxinfer as ji
from benchmarks.decode_pool import normal
from benchmarks.gpu_timing import Chain, Settings
from benchmarks.harness import failure, record
from benchmarks.machine import own_implementation
from benchmarks.op_cells import TokenCell

CALLS = 192  # short calls need long programs


def records(cells: Sequence[TokenCell], settings: Settings) -> Iterator[dict[str, Any]]:
    """Our ops by their kernels, and the same in jnp."""
    settings = settings.with_calls(CALLS)
    for cell in cells:
        both = cell.rope_bytes + cell.append_bytes // 2  # keys go to the cache at once
        for name, measure, num_bytes in (
            ("rope", _rope, cell.rope_bytes),
            ("rope_append", _rope_append, both),
        ):
            for impl, kernel in (("jaxinfer", own_implementation()), ("xla", "xla")):
                try:
                    times = measure(cell, kernel, settings)
                    yield record(name, cell.name, impl, times, num_bytes=num_bytes)
                except Exception as error:
                    yield failure(name, cell.name, impl, error)


def _tokens(cell: TokenCell) -> list[jax.Array]:
    """Queries, keys and values."""
    heads = (cell.num_q_heads, cell.num_kv_heads, cell.num_kv_heads)
    shapes = [(cell.num_tokens, n, cell.head_dim) for n in heads]
    return [
        normal(jax.random.key(i), shape, 1.0, "bfloat16")
        for i, shape in enumerate(shapes)
    ]


def _rope(cell: TokenCell, implementation: str, settings: Settings) -> dict:
    query, key, _ = _tokens(cell)
    positions = jnp.asarray(cell.positions())

    def call(state, positions, _):
        return [ji.rope(x, positions, implementation=implementation) for x in state]

    turned = jax.jit(call)([query, key], positions, ())
    for x, y in zip((query, key), turned, strict=True):
        _check_turned(x, y, positions)
    chain = Chain(call, [query, key], positions, [()], settings)
    return chain.measure([jnp.copy(query), jnp.copy(key)], [()])


def _rope_append(cell: TokenCell, implementation: str, settings: Settings) -> dict:
    query, key, value = _tokens(cell)
    positions = jnp.asarray(cell.positions())
    row = (cell.num_kv_heads, cell.head_dim)
    shape = (cell.num_pages, cell.page_size, *row)
    slots = [jnp.asarray(s) for s in cell.slots(settings.calls)]

    def call(state, shared, slots):
        query, k_pages, v_pages = state
        key, value, positions = shared
        return ji.rope_update_kv_pages(
            query,
            k_pages,
            v_pages,
            key,
            value,
            positions=positions,
            slot_mapping=slots,
            implementation=implementation,
        )

    def start():
        pages = [jnp.zeros(shape, jnp.bfloat16) for _ in range(2)]
        return (jnp.copy(query), *pages)

    shared = (key, value, positions)
    turned, k_pages, v_pages = jax.jit(call)(start(), shared, slots[0])
    _check_turned(query, turned, positions)
    _check_turned(key, k_pages.reshape(-1, *row)[slots[0]], positions)
    if not (v_pages.reshape(-1, *row)[slots[0]] == value).all():
        raise AssertionError("wrong result: values are not where they belong")
    return Chain(call, start(), shared, slots, settings).measure(start(), slots)


def _check_turned(x: jax.Array, y: jax.Array, positions: jax.Array) -> None:
    expected = ji.rope(x, positions, implementation="xla").astype(jnp.float32)
    error = jnp.abs(y.astype(jnp.float32) - expected)
    if not bool((error <= 0.02 * jnp.abs(expected) + 1e-3).all()):
        raise AssertionError(f"wrong result: off by {float(error.max())}")
