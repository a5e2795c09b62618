# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Rotary embedding of queries and keys on a GPU, alone and fused with the append."""

import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.decode_pool import normal
from benchmarks.gpu_timing import Chain, Settings
from benchmarks.harness import failure, record
from benchmarks.machine import own_implementation
from benchmarks.op_cells import TokenCell

CALLS = 192  # short calls need long programs


def records(cells: Sequence[TokenCell], settings: Settings) -> Iterator[dict[str, Any]]:
    """Our op by its kernel, and the same in jnp."""
    settings = settings.with_calls(CALLS)
    for cell in cells:
        for impl, name in (("jaxinfer", own_implementation()), ("xla", "xla")):
            try:
                times = _measure(cell, _rope(name), settings)
                size = cell.rope_bytes
                yield record("rope", cell.name, impl, times, num_bytes=size)
            except Exception as error:
                yield failure("rope", cell.name, impl, error)


def _rope(implementation: str) -> Callable[[Any, Any], Any]:
    try:
        op: Any = importlib.import_module("jaxinfer.ops.rope").rope
    except ImportError:
        op = importlib.import_module("jaxinfer.rope").rope
    if "implementation" in inspect.signature(op).parameters:
        return lambda x, positions: op(x, positions, implementation=implementation)
    if implementation != "xla":
        raise NotImplementedError("rope is plain jnp here")
    return op


def _measure(cell: TokenCell, rope: Any, settings: Settings) -> dict[str, float]:
    state = tuple(
        normal(
            jax.random.key(i), (cell.num_tokens, heads, cell.head_dim), 1.0, "bfloat16"
        )
        for i, heads in enumerate((cell.num_q_heads, cell.num_kv_heads))
    )
    positions = jnp.asarray(cell.positions())

    def call(state, positions, _):
        return tuple(rope(x, positions) for x in state)

    turned = jax.jit(call)(state, positions, ())
    for x, y in zip(state, turned, strict=True):  # a rotation keeps the length
        lengths = (jnp.linalg.norm(z.astype(jnp.float32)) for z in (x, y))
        before, after = map(float, lengths)
        if not abs(after - before) <= 0.01 * before or bool((x == y).all()):
            raise AssertionError("wrong result: not a rotation")
    chain = Chain(call, state, positions, [()], settings)
    return chain.measure(jax.tree.map(jnp.copy, state), [()])
