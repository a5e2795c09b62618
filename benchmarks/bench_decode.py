# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""ragged_paged_attention on a GPU: decode, beside what JAX users have today.

Two records a cell: "decode", whose calls take caches in turn that together are larger
than three L2s, and "decode_repeated", whose calls all read the same one.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp

import jaxinfer as ji
from benchmarks.decode_pool import Pool, Prepared, check
from benchmarks.gpu_timing import Chain, Settings
from benchmarks.harness import failure, record
from benchmarks.machine import own_implementation
from benchmarks.peers import in_jax
from jaxinfer.testing.cases import AttentionCase


def jaxinfer(
    pool: Pool, implementation: str | None = None, variant: ji.Variant | None = None
) -> Prepared:
    """Our kernel, with a plan made on the host."""
    plan = host_plan(pool.case)
    implementation = implementation or own_implementation()

    def call(query, shared, table):
        k_pages, v_pages, kv_lens, plan = shared
        return ji.ragged_paged_attention(
            query,
            k_pages,
            v_pages,
            table,
            kv_lens,
            plan=plan,
            variant=variant,
            implementation=implementation,
        )

    shared = (pool.k_pages, pool.v_pages, pool.kv_lens, plan)
    return Prepared(call, shared, pool.tables, pool.keys_of)


def jaxinfer_planned(pool: Pool) -> Prepared:
    """Our kernel, with a plan of its own in every call, made in the graph."""
    implementation = own_implementation()

    def call(query, shared, buffer):
        table, kv_lens = buffer
        k_pages, v_pages = shared
        return ji.ragged_paged_attention(
            query, k_pages, v_pages, table, kv_lens, implementation=implementation
        )

    # Lengths of its own for each call, or XLA would make one plan for all of them.
    buffers = [(table, jnp.copy(pool.kv_lens)) for table in pool.tables]
    return Prepared(call, (pool.k_pages, pool.v_pages), buffers, pool.keys_of)


def host_plan(case: AttentionCase, config: ji.PlanConfig | None = None) -> ji.Plan:
    """The plan of a cell; its lengths are those of every cache."""
    cu_q_lens, kv_lens = case.make_lengths()
    return ji.plan(
        cu_q_lens,
        kv_lens,
        num_tokens=int(cu_q_lens[-1]),
        max_kv_len=int(kv_lens.max()),
        num_q_heads=case.num_q_heads,
        num_kv_heads=case.num_kv_heads,
        head_dim=case.head_dim,
        is_causal=case.is_causal,
        config=config,
    )


# What is timed under a name: the fastest of some variants.
Variants = Sequence[tuple[dict[str, Any], Callable[[Pool], Prepared]]]
_FA3: Variants = [
    ({"num_splits": n}, functools.partial(in_jax.flash_attn3, num_splits=n))
    for n in (1, 4, 16, 32)
]

IMPLS: dict[str, Variants] = {
    "jaxinfer": [({}, jaxinfer)],
    "jaxinfer, plan in graph": [({}, jaxinfer_planned)],
    "jaxinfer reference": [({}, functools.partial(jaxinfer, implementation="xla"))],
    "xla": [({}, in_jax.xla)],
    "xla dense": [({}, in_jax.dense_xla)],
    "cudnn dense": [({}, in_jax.cudnn)],
    "pallas": [({}, in_jax.pallas)],
    "flash_attn3_jax": _FA3,
}


def records(
    cells: Sequence[AttentionCase], impls: Sequence[str], settings: Settings
) -> Iterator[dict[str, Any]]:
    """All implementations of a cell on one pool, cell after cell."""
    for case in cells:
        try:
            pool = Pool.create(case, settings.calls)
        except Exception as error:  # too large for this GPU: the next cell may not be
            yield from (failure("decode", case.name, impl, error) for impl in impls)
            continue
        for impl in impls:
            try:
                yield from _fastest(pool, impl, settings)
            except Exception as error:
                yield failure("decode", case.name, impl, error)


def _fastest(pool: Pool, impl: str, settings: Settings) -> list[dict[str, Any]]:
    results, errors = [], []
    for options, prepare in IMPLS[impl]:
        try:
            results.append((options, *_measure(pool, prepare(pool), settings)))
        except Exception as error:
            errors.append(error)
    if not results:
        raise errors[0]
    options, cold, repeated, error = min(results, key=lambda r: r[1]["us"])
    extra = {"max_err": error} | ({"options": options} if options else {})
    return [
        record("decode", pool.case.name, impl, cold, pool.case, **extra),
        record("decode_repeated", pool.case.name, impl, repeated, pool.case, **extra),
    ]


def _measure(pool: Pool, prepared: Prepared, settings: Settings) -> tuple[Any, ...]:
    """(times of caches in turn, of one cache, the largest error)."""
    error = check(pool, prepared)
    query, buffers = pool.query, prepared.buffers
    call = prepared.call
    chain = Chain(call, jnp.copy(query), prepared.shared, buffers, settings)
    cold = chain.measure(jnp.copy(query), buffers)
    return cold, chain.measure(jnp.copy(query), buffers[:1]), error
