# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""StreamingLLM's layer in decode on a GPU: keys rotated by their places in the cache.

The cache keeps keys as they came. Positions in it change with every token, so keys are
rotated in every step: inside the kernel, or into another cache in front of it.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxinfer as ji
from benchmarks import decode_cells
from benchmarks.bench_decode import host_plan, jaxinfer
from benchmarks.bench_variants import implementation
from benchmarks.decode_pool import Pool, Prepared, check
from benchmarks.gpu_timing import Chain, Settings
from benchmarks.harness import failure, record
from benchmarks.machine import is_gpu
from benchmarks.variant_cells import turned
from jaxinfer import variants
from jaxinfer.testing.cases import AttentionCase

STREAMING = "streaming_llm"


def records(cases: Sequence[AttentionCase], settings: Settings) -> Iterator[dict]:
    """A layer's attention that rotates in the kernel, before it, and not at all.

    Rates are those of K and V read once, so that their ratios are those of times.
    """
    ropes = ("cuda", "xla") if is_gpu() else ("xla",)
    separate = [functools.partial(_separate, rope=rope) for rope in ropes]
    for case in cases:
        took: dict[str, float] = {}
        for impl, ways in (
            ("plain", [_plain]),
            ("separate", separate),
            ("fused", [_fused]),
        ):
            results, errors = [], []
            for way in ways:
                try:
                    results.append(_layer(case, way, settings))
                except Exception as error:
                    errors.append(error)
            if not results:
                yield failure(STREAMING, case.name, f"jaxinfer, {impl}", errors[0])
                continue
            times, extra = min(results, key=lambda result: result[0]["us"])
            extra |= {
                f"speed_of_{other}": round(us / times["us"], 3)
                for other, us in took.items()
            }
            took[impl] = times["us"]
            num_bytes = decode_cells.kv_bytes(case)
            name = f"jaxinfer, {impl}"
            yield record(
                STREAMING, case.name, name, times, num_bytes=num_bytes, **extra
            )


def _layer(case, prepare, settings) -> tuple[dict[str, float], dict[str, Any]]:
    """(times, other fields of the record)."""
    pool = Pool.create(case, settings.calls)
    prepared, fields = prepare(pool)
    error = check(pool, prepared)
    call, shared, buffers = prepared.call, prepared.shared, prepared.buffers
    chain = Chain(call, jnp.copy(pool.query), shared, buffers, settings)
    times = chain.measure(jnp.copy(pool.query), buffers)
    return times, {"max_err": error} | fields


def _plain(pool: Pool) -> tuple[Prepared, dict]:
    """The kernel rotates nothing."""
    return jaxinfer(pool, implementation()), {}


def _fused(pool: Pool) -> tuple[Prepared, dict]:
    """The kernel rotates what it reads."""
    variant = variants.rope(pool.case.head_dim)
    prepared = jaxinfer(pool, implementation(), variant)
    return dataclasses.replace(prepared, keys_of=_turned_keys(pool)), {}


def _separate(pool: Pool, rope: str) -> tuple[Prepared, dict]:
    """The keys are rotated into another cache, which the kernel reads."""
    plan = host_plan(pool.case)
    size = pool.case.page_size
    assert size is not None

    def call(query, shared, buffer):
        kv_lens, plan = shared
        # Like the layers of a model: nothing begins before the one in front has ended.
        query, (k_pages, v_pages, table, positions) = jax.lax.optimization_barrier(
            (query, buffer)
        )
        keys = k_pages.reshape(-1, *k_pages.shape[2:])
        keys = ji.rope(keys, positions, implementation=rope)
        return ji.ragged_paged_attention(
            ji.rope(query, kv_lens - 1, implementation=rope),
            keys.reshape(k_pages.shape),
            v_pages,
            table,
            kv_lens,
            plan=plan,
            implementation=implementation(),
        )

    used = len(pool.k_pages) // len(pool.tables)
    buffers = []
    for i, table in enumerate(np.asarray(table) for table in pool.tables):
        pages = slice(i * used, (i + 1) * used)
        places = np.zeros((used, size), np.int32)
        place = size * np.arange(table.shape[1])[:, None] + np.arange(size)
        places[table - i * used] = place
        own = (jnp.asarray(table - i * used), jnp.asarray(places.reshape(-1)))
        buffers.append((pool.k_pages[pages], pool.v_pages[pages], *own))
    prepared = Prepared(call, (pool.kv_lens, plan), buffers, _turned_keys(pool))
    return prepared, {"options": {"rope": rope}}


def _turned_keys(pool: Pool) -> Callable[[int, int], tuple[np.ndarray, np.ndarray]]:
    def keys_of(cache, seq):
        keys, values = pool.keys_of(cache, seq)
        return turned(keys), values

    return keys_of
