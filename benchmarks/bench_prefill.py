# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Prefill on a GPU: with and without pages, beside what JAX users have today."""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxinfer as ji
from benchmarks import decode_cells, prefill_cells
from benchmarks.bench_decode import host_plan
from benchmarks.decode_pool import normal
from benchmarks.gpu_timing import Settings, measure_apart
from benchmarks.harness import failure, record
from benchmarks.machine import own_implementation
from benchmarks.prefill_cells import PREFILL
from jaxinfer.testing.cases import AttentionCase

Call = Callable[[Any, Any], Any]  # (shared, query) -> out [T, N, H], or parts of it
# (call, shared), and the query where that is not the cell's as it is.
Prepared = tuple[Call, Any] | tuple[Call, Any, Any]


@dataclasses.dataclass(frozen=True)
class Operands:
    """What a cell is computed from, drawn on the device.

    Attributes:
      case: the cell.
      query: [T, N, H].
      key: [T, K, H], or pages [P, page_size, K, H].
      value: as key.
      cu_q_lens: i32[B + 1].
      kv_lens: i32[B].
      table: i32[B, longest], pages in random order; None = without pages.
    """

    case: AttentionCase
    query: jax.Array
    key: jax.Array
    value: jax.Array
    cu_q_lens: jax.Array
    kv_lens: jax.Array
    table: jax.Array | None

    @classmethod
    def create(cls, case: AttentionCase) -> "Operands":
        """Draws everything."""
        cu_q_lens, kv_lens = case.make_lengths()
        rows, table = (int(kv_lens.sum()),), None
        if case.page_size is not None:
            num_pages, tables = decode_cells.page_tables(case, 1)
            rows, table = (num_pages, case.page_size), jnp.asarray(tables[0])
        kv_shape = (*rows, case.num_kv_heads, case.head_dim)
        q_shape = (int(cu_q_lens[-1]), case.num_q_heads, case.head_dim)
        query, key, value = (
            normal(jax.random.key(i), shape, 1.0, case.dtype)
            for i, shape in enumerate((q_shape, kv_shape, kv_shape))
        )
        lengths = jnp.asarray(cu_q_lens), jnp.asarray(kv_lens)
        return cls(case, query, key, value, *lengths, table)

    def dense(self) -> list[jax.Array]:
        """Query, key and value as [B, S, heads, H]."""
        batch = self.case.num_seqs
        operands = (self.query, self.key, self.value)
        return [x.reshape(batch, -1, *x.shape[1:]) for x in operands]


def jaxinfer(operands: Operands) -> tuple[Call, Any]:
    """Our kernel, with a plan made on the host."""
    plan, options = host_plan(operands.case), _options(operands.case)
    key, value = operands.key, operands.value
    if operands.table is None:

        def call(shared, query):
            key, value, cu_q_lens, plan = shared
            return ji.ragged_attention(
                query, key, value, cu_q_lens, plan=plan, **options
            )

        return call, (key, value, operands.cu_q_lens, plan)

    def call_paged(shared, query):
        *paged, plan = shared
        return ji.ragged_paged_attention(query, *paged, plan=plan, **options)

    lengths = operands.kv_lens, operands.cu_q_lens
    return call_paged, (key, value, operands.table, *lengths, plan)


def _options(case: AttentionCase) -> dict[str, Any]:
    return {
        "is_causal": case.is_causal,
        "implementation": own_implementation(),
    }


def cudnn(operands: Operands) -> tuple[Call, Any]:
    """jax.nn's cuDNN attention."""
    query, *shared = operands.dense()
    shape, is_causal = query.shape, operands.case.is_causal

    def call(shared, query):
        out = jax.nn.dot_product_attention(
            query.reshape(shape), *shared, is_causal=is_causal, implementation="cudnn"
        )
        return out.reshape(query.shape)

    return call, shared


def flash_attn3(operands: Operands) -> tuple[Call, Any]:
    """flash_attn3_jax in its form for the cell: dense, ragged, or with pages."""
    fa3: Any = importlib.import_module("flash_attn3_jax")
    case, shape = operands.case, operands.query.shape
    batched = (case.num_seqs, -1, *shape[1:])
    if operands.table is not None:

        def call_paged(shared, query):
            key, value, kv_lens, table = shared
            out = fa3.flash_mha_with_kvcache(
                query.reshape(batched),
                key,
                value,
                cache_seqlens=kv_lens,
                page_table=table,
                is_causal=True,
            )
            return out.reshape(shape)

        shared = (operands.key, operands.value, operands.kv_lens, operands.table)
        return call_paged, shared
    if prefill_cells.is_dense(case):

        def call_dense(shared, query):
            out = fa3.flash_mha(
                query.reshape(batched), *shared, is_causal=case.is_causal
            )
            return out.reshape(shape)

        return call_dense, operands.dense()[1:]
    longest = int(case.make_lengths()[1].max())
    most = {"max_seqlen_q": longest, "max_seqlen_k": longest}

    def call_ragged(shared, query):
        return fa3.flash_mha_varlen(query, *shared, is_causal=True, **most)

    return call_ragged, (operands.key, operands.value, operands.cu_q_lens)


Impls = Mapping[str, Callable[[Operands], Prepared]]


def impls(case: AttentionCase) -> Impls:
    """What can be asked for a cell."""
    made = {"jaxinfer": jaxinfer}
    if prefill_cells.is_dense(case):
        made["cudnn dense"] = cudnn
    if case.page_size is None or case.q_lens is None:
        made["flash_attn3_jax"] = flash_attn3  # its pages want equally many queries
    return made


def records(
    cells: Sequence[AttentionCase],
    settings: Settings,
    benchmark: str = PREFILL,
    impls: Callable[[AttentionCase], Impls] = impls,
) -> Iterator[dict[str, Any]]:
    """All implementations of a cell on the same operands, cell after cell."""
    for case in cells:
        todo = impls(case)
        try:
            operands = Operands.create(case)
        except Exception as error:  # too large for this GPU: the next may not be
            yield from (failure(benchmark, case.name, impl, error) for impl in todo)
            continue
        for impl, prepare in todo.items():
            try:
                times, error = _measure(operands, settings, *prepare(operands))
                yield record(benchmark, case.name, impl, times, case, max_err=error)
            except Exception as error:
                yield failure(benchmark, case.name, impl, error)


def _measure(
    operands: Operands, settings: Settings, call: Call, shared: Any, query: Any = None
) -> tuple[dict[str, float], float]:
    """(times, the largest error)."""
    query = operands.query if query is None else query
    out = jax.jit(call)(shared, query)
    error = check(operands, jnp.concatenate(jax.tree.leaves(out)))
    settings = prefill_cells.timing(operands.case, settings)
    return measure_apart(call, shared, [query], settings), error


def check(operands: Operands, out: jax.Array) -> float:
    """Holds rows of a few sequences against float64; returns the largest error."""
    case, errors = operands.case, []
    table = None if operands.table is None else np.asarray(operands.table)
    kv_heads, heads = (tuple(heads) for heads in decode_cells.checked_heads(case))
    for seq in decode_cells.checked_seqs(case):
        rows = case.make_lengths()[0][seq] + prefill_cells.checked_rows(case, seq)
        some = [_rows(x, rows, heads) for x in (out, operands.query)]
        slots = prefill_cells.slots(case, seq, table)
        some += [_rows(x, slots, kv_heads) for x in (operands.key, operands.value)]
        errors.append(prefill_cells.max_error(case, seq, *map(np.asarray, some)))
    return max(errors)


@functools.partial(jax.jit, static_argnames="heads")
def _rows(x, rows, heads):
    """[rows, heads, H] of an array whose rows may be in pages."""
    return x.reshape(-1, *x.shape[-2:])[rows][:, list(heads)]
