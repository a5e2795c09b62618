# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""ragged_paged_attention on a CPU: decode over caches that do not fit it."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.bench_decode import host_plan
from benchmarks.harness import measure, record
from jaxinfer import ragged_paged_attention
from jaxinfer.testing.cases import AttentionCase, decode_cases, make_operands
from jaxinfer.testing.numerics import attention_float64

NUM_CACHES = 3  # rotated, so that each call reads memory


def cases() -> list[AttentionCase]:
    """Small enough for two cores, large enough to leave their caches."""
    return [
        *decode_cases((8,), (2048,)),
        *decode_cases((1,), (4096,)),
        *decode_cases((8,), (2048,), num_q_heads=9, num_kv_heads=3, head_dim=64),
    ]


def records() -> Iterator[dict[str, Any]]:
    """Our kernel and the jitted reference on the same operands."""
    for case in cases():
        operands = make_operands(case, poison=False)
        expected = attention_float64(operands, **case.options).out
        operands = jax.tree.map(jnp.asarray, operands)
        k_pages, v_pages = operands.pop("k_pages"), operands.pop("v_pages")
        caches = [(k_pages.copy(), v_pages.copy()) for _ in range(NUM_CACHES)]
        for implementation in ("cpu", "xla"):
            call = _jitted(case, operands, implementation)
            error = _max_error(call(*caches[0]), expected)

            def rotate(i, call=call, caches=caches):
                return call(*caches[i % NUM_CACHES])

            times = measure(rotate)
            impl = "jaxinfer" if implementation == "cpu" else "xla"
            yield record("decode", case.name, impl, times, case, max_err=error)


def _jitted(case: AttentionCase, operands: dict[str, Any], implementation: str):
    made = host_plan(case)
    return jax.jit(
        lambda k_pages, v_pages: ragged_paged_attention(
            **operands,
            **case.options,
            k_pages=k_pages,
            v_pages=v_pages,
            plan=made,
            implementation=implementation,
        )
    )


def _max_error(out: jax.Array, expected: np.ndarray) -> float:
    error = float(np.abs(np.asarray(out, np.float64) - expected).max())
    scale = float(np.abs(expected).max())
    if not error <= 0.02 * scale:
        raise AssertionError(f"wrong result: error {error} at scale {scale}")
    return error
