# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""update_kv_pages on a GPU: one token for each of many sequences, one layer."""

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
    """Our kernel, and XLA's scatter; every call writes other slots."""
    settings = settings.with_calls(CALLS)
    for cell in cells:
        for impl, name in (("jaxinfer", own_implementation()), ("xla", "xla")):
            try:
                times = _measure(cell, name, settings)
                size = cell.append_bytes
                yield record("append", cell.name, impl, times, num_bytes=size)
            except Exception as error:
                yield failure("append", cell.name, impl, error)


def _measure(cell: TokenCell, implementation: str, settings: Settings) -> dict:
    row = (cell.num_kv_heads, cell.head_dim)
    shape = (cell.num_pages, cell.page_size, *row)
    tokens = (cell.num_tokens, *row)
    key, value = (normal(jax.random.key(i), tokens, 1.0, "bfloat16") for i in range(2))
    slots = [jnp.asarray(s) for s in cell.slots(settings.calls)]

    def call(cache, shared, slots):
        return ji.update_kv_pages(
            *cache, *shared, slot_mapping=slots, implementation=implementation
        )

    def empty():
        return jnp.zeros(shape, jnp.bfloat16), jnp.zeros(shape, jnp.bfloat16)

    cache = jax.jit(call, donate_argnums=0)(empty(), (key, value), slots[0])
    for pages, expected in zip(cache, (key, value), strict=True):
        if not (pages.reshape(-1, *row)[slots[0]] == expected).all():
            raise AssertionError("wrong result: tokens are not where they belong")
    chain = Chain(call, empty(), (key, value), slots, settings)
    return chain.measure(empty(), slots)
