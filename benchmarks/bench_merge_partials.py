# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""merge_partials on a GPU: what joining split keys costs."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import jaxinfer as ji
from benchmarks.decode_pool import normal
from benchmarks.gpu_timing import Settings, measure_apart
from benchmarks.harness import failure, record
from benchmarks.machine import own_implementation

# Parts, tokens, query heads, head dim: about what plans of small batches split into.
CELLS = ((16, 1, 32, 128), (8, 16, 32, 128), (2, 128, 32, 128))
TINY = ((3, 2, 4, 64),)


def records(cells: Any, settings: Settings) -> Iterator[dict[str, Any]]:
    """Our kernel, and the same in jnp."""
    for shape in cells:
        case = "s{}_t{}_n{}_d{}_f32".format(*shape)
        for impl, name in (("jaxinfer", own_implementation()), ("xla", "xla")):
            try:
                times, size = _measure(shape, name, settings)
                yield record("merge", case, impl, times, num_bytes=size)
            except Exception as error:
                yield failure("merge", case, impl, error)


def _measure(shape: Any, implementation: str, settings: Settings) -> tuple[dict, int]:
    keys = jax.random.split(jax.random.key(0), 2 * settings.calls)
    buffers = [
        (normal(a, shape, 1.0, "float32"), normal(b, shape[:-1], 1.0, "float32"))
        for a, b in zip(keys[::2], keys[1::2], strict=True)
    ]

    def call(shared, buffer):
        del shared
        return ji.merge_partials(*buffer, implementation=implementation)

    outs, lses = (np.asarray(x, np.float64) for x in buffers[0])
    weights = np.exp(lses - np.log(np.exp(lses).sum(0)))
    expected = (weights[..., None] * outs).sum(0)
    out, _ = jax.jit(call)((), buffers[0])
    if not np.abs(np.asarray(out) - expected).max() <= 1e-4:
        raise AssertionError("wrong result of a merge")
    size = 4 * (shape[0] + 1) * (math.prod(shape[1:]) + math.prod(shape[1:-1]))
    return measure_apart(call, (), buffers, settings), size
