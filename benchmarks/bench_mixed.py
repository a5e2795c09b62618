# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Mixed batches on a GPU: decode and chunked prefill in one call, and in two."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp

import jaxinfer as ji
from benchmarks import bench_prefill, mixed_cells
from benchmarks.bench_decode import host_plan
from benchmarks.bench_prefill import Operands, Prepared
from benchmarks.gpu_timing import Settings
from benchmarks.machine import own_implementation
from benchmarks.mixed_cells import MIXED
from jaxinfer.testing.cases import AttentionCase


def two_calls(operands: Operands) -> Prepared:
    """Our kernel, for the sequences in decode and then for the chunks."""
    assert operands.table is not None
    implementation = own_implementation()
    n = mixed_cells.num_decodes(operands.case)  # sequences, and so rows
    decodes, chunks = mixed_cells.parts(operands.case)
    table, kv_lens, query = operands.table, operands.kv_lens, operands.query
    cu_q_lens = jnp.asarray(chunks.make_lengths()[0])
    lists = (
        (table[:n], kv_lens[:n], None, host_plan(decodes)),
        (table[n:], kv_lens[n:], cu_q_lens, host_plan(chunks)),
    )

    def call(shared, queries):
        *pages, lists = shared
        return [
            ji.ragged_paged_attention(
                query, *pages, *lengths, plan=plan, implementation=implementation
            )
            for query, (*lengths, plan) in zip(queries, lists, strict=True)
        ]

    # Of two arrays: what has to be cut or joined would be timed with the calls.
    queries = [query[:n], query[n:]]
    return call, (operands.key, operands.value, lists), queries


IMPLS = {"jaxinfer": bench_prefill.jaxinfer, "jaxinfer, two calls": two_calls}


def records(
    cells: Sequence[AttentionCase], settings: Settings
) -> Iterator[dict[str, Any]]:
    """Both of a cell on the same operands, cell after cell."""
    return bench_prefill.records(cells, settings, MIXED, lambda _: IMPLS)
