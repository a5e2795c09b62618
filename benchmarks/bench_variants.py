# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Variants in prefill on a GPU: masks, windows, and changes of the scores."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxinfer as ji
from benchmarks.decode_pool import normal
from benchmarks.gpu_timing import Settings, measure_apart
from benchmarks.harness import failure, record
from benchmarks.machine import is_gpu, own_implementation
from benchmarks.variant_cells import CAP, WINDOW, PrefillCell
from jaxinfer import variants

PREFILL = "variants"
MAPPED = "jaxinfer, block map"


def implementation() -> str:
    """Our kernel; on CPUs, whose kernels know no variants, the reference."""
    return own_implementation() if is_gpu() else "xla"


def records(cells: Sequence[PrefillCell], settings: Settings) -> Iterator[dict]:
    """Prefill under every variant of a cell; "of_causal" is the speed beside causal."""
    for cell in cells:
        causal = None
        operands = [
            normal(jax.random.key(i), shape, 1.0, "bfloat16")
            for i, shape in enumerate(_shapes(cell))
        ]
        for name in cell.variants:
            for impl, variant in _variants(cell, name).items():
                try:
                    made = _prefill(cell, name, impl, variant(), operands, settings)
                except Exception as error:
                    made = failure(PREFILL, cell.case(name), impl, error)
                if made["us"] and name == "causal":
                    causal = made["us"]
                elif made["us"] and causal:
                    made["of_causal"] = round(causal / made["us"], 3)
                yield made


def _shapes(cell: PrefillCell) -> list[tuple[int, ...]]:
    heads = (cell.num_q_heads, cell.num_kv_heads, cell.num_kv_heads)
    return [(cell.num_tokens, n, cell.head_dim) for n in heads]


def _variants(
    cell: PrefillCell, name: str
) -> dict[str, Callable[[], ji.Variant | None]]:
    """By the name of the implementation, how to make the variant."""
    size = cell.seq_len
    if name == "documents":
        ids = np.tile(cell.document_of, (cell.batch, 1))
        plain = variants.documents(jnp.asarray(ids))
        sizes = {"q_len": size, "kv_len": size, "num_seqs": cell.batch}
        return {
            "jaxinfer": lambda: plain,
            MAPPED: lambda: plain.with_block_map(**sizes),
        }
    made = {
        "causal": lambda: None,
        "soft_cap": lambda: variants.soft_cap(CAP),
        "alibi": lambda: variants.alibi(jnp.asarray(cell.slopes)),
        "window1024": lambda: variants.sliding_window(WINDOW - 1),
    }
    return {"jaxinfer": made[name]}


def _prefill(cell, name, impl, variant, operands, settings) -> dict[str, Any]:
    query, key, value = operands
    # Without its block map, a mask of documents takes more than causal attention.
    work = "causal" if (name, impl) == ("documents", "jaxinfer") else name
    settings = cell.settings(work, settings)
    plan = ji.plan(
        cell.cu_q_lens,
        np.full(cell.batch, cell.seq_len, np.int32),
        num_tokens=cell.num_tokens,
        max_kv_len=cell.seq_len,
        num_q_heads=cell.num_q_heads,
        num_kv_heads=cell.num_kv_heads,
        head_dim=cell.head_dim,
        local_window_size=variant and variant.window,
    )

    def call(shared, query):
        key, value, cu_q_lens, plan = shared
        options = {"variant": variant, "implementation": implementation()}
        return ji.ragged_attention(query, key, value, cu_q_lens, plan=plan, **options)

    shared = (key, value, jnp.asarray(cell.cu_q_lens), plan)
    error = _check(cell, name, jax.jit(call)(shared, query), operands)
    times = measure_apart(call, shared, [query], settings)
    tflops = cell.tflops(name, times["us"])
    return record(PREFILL, cell.case(name), impl, times, tflops=tflops, max_err=error)


def _check(cell: PrefillCell, name: str, out: Any, operands: Sequence[Any]) -> float:
    """The largest error; raises if it is too large."""
    heads, kv_heads = (tuple(heads) for heads in cell.checked_heads())
    rows, query, errors = cell.checked_rows(), operands[0], []
    for seq in cell.checked_seqs():
        first = seq * cell.seq_len
        some = [_rows(x, first + rows, heads) for x in (out, query)]
        every = first + np.arange(cell.seq_len)
        some += [_rows(x, every, kv_heads) for x in operands[1:]]
        errors.append(cell.max_error(name, *map(np.asarray, some)))
    return max(errors)


@functools.partial(jax.jit, static_argnames="heads")
def _rows(x, rows, heads):
    return x[rows][:, list(heads)]
