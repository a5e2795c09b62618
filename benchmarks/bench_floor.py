# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""What a launch costs on a GPU when there is next to nothing to do."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import bench_decode
from benchmarks.decode_pool import Pool
from benchmarks.gpu_timing import Chain, Settings
from benchmarks.harness import failure, record
from benchmarks.machine import is_gpu
from jaxinfer.testing.cases import AttentionCase

CALLS = 192  # short calls need long programs

ONE_KEY = AttentionCase(
    batch=1,
    kv_len=1,
    num_q_heads=32,
    num_kv_heads=8,
    head_dim=128,
    dtype="bfloat16",
)


def records(settings: Settings) -> Iterator[dict[str, Any]]:
    """A kernel of XLA, and our attention over one key."""
    settings = settings.with_calls(CALLS)
    for case, impl, run in (
        ("empty", "xla", _xla),
        (ONE_KEY.name, "jaxinfer", _attention),
    ):
        try:
            yield record("floor", case, impl, run(settings))
        except Exception as error:
            yield failure("floor", case, impl, error)


def _xla(settings: Settings) -> dict[str, float]:
    start = jnp.zeros(1)

    def call(x, shared, _):
        # XLA fuses nothing across a barrier, so this is one kernel.
        return jax.lax.optimization_barrier(x + shared)

    chain = Chain(call, start, jnp.ones(()), [()], settings)
    times = chain.measure(start, [()])
    if is_gpu() and times["us"] < 0.2:
        raise AssertionError("XLA made one kernel of all calls")
    return times


def _attention(settings: Settings) -> dict[str, float]:
    pool = Pool.create(ONE_KEY, 2)
    prepared = bench_decode.jaxinfer(pool)
    buffers = prepared.buffers[:1]
    query = pool.query
    chain = Chain(prepared.call, query, prepared.shared, buffers, settings)
    return chain.measure(query, buffers)
