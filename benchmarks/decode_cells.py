# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The cells of the decode benchmark on a GPU: cases, page tables, expected results.

In numpy alone: peers that run in a process of their own, without JAX, time the same
cells with the same page tables and are held against the same float64 attention.
"""

import math
from typing import Any

import numpy as np

from jaxinfer.testing.cases import AttentionCase, decode_cases
from jaxinfer.testing.numerics import attention_float64

HEADS = ((32, 8), (64, 8), (32, 32))
SHAPES = (
    (1, 4096),
    (1, 32768),
    (16, 1024),
    (16, 4096),
    (64, 4096),
    (128, 1024),
    (16, 16384),
)
PAGE_SIZES = (1, 5, 64)  # beside 16
GROUPS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16)
# Microseconds with repeated buffers that an H200 is to reach.
TARGETS = {
    "b1_kv4096_const_32x8_d128_p16_bf16": 7.8,
    "b1_kv32768_const_32x8_d128_p16_bf16": 36.5,
    "b16_kv1024_const_32x8_d128_p16_bf16": 19.0,
    "b16_kv1024_zipf_32x8_d128_p16_bf16": 20.0,
    "b16_kv4096_const_32x8_d128_p16_bf16": 65.0,
    "b16_kv4096_zipf_32x8_d128_p16_bf16": 67.0,
    "b64_kv4096_const_32x8_d128_p16_bf16": 245.0,
    "b64_kv4096_zipf_32x8_d128_p16_bf16": 248.0,
    "b128_kv1024_const_32x8_d128_p16_bf16": 128.0,
    "b16_kv16384_const_32x8_d128_p16_bf16": 243.0,
    "b1_kv4096_const_32x32_d128_p16_bf16": 21.5,
    "b16_kv4096_const_32x32_d128_p16_bf16": 246.0,
    "b16_kv4096_zipf_32x32_d128_p16_bf16": 248.0,
}
COLD_BYTES = 3 * 60 * 2**20  # three times the L2 of an H200


def _cells(shapes: Any, **fields: Any) -> list[AttentionCase]:
    return [
        case
        for batch, kv_len in shapes
        for case in decode_cases((batch,), (kv_len,), **fields)
    ]


def target_cells() -> list[AttentionCase]:
    """Those with a target of their own, in the order of their table."""
    gqa = [c for c in _cells(SHAPES) if c.lengths != "uniform"]
    gqa = [c for c in gqa if c.lengths == "const" or c.batch in (16, 64)]
    gqa = [c for c in gqa if c.lengths == "const" or c.kv_len <= 4096]
    mha = _cells(((1, 4096), (16, 4096)), num_q_heads=32, num_kv_heads=32)
    return gqa + [c for c in mha if c.lengths != "uniform"]


def page_size_cells() -> list[AttentionCase]:
    """Other page sizes at two shapes whose page size 16 is a target."""
    return [
        case
        for page_size in PAGE_SIZES
        for case in _cells(((16, 4096), (64, 4096)), page_size=page_size)
        if case.lengths == "const"
    ]


def group_cells() -> list[AttentionCase]:
    """Query heads per KV head, where lengths are skewed and memory is the limit."""
    return [
        AttentionCase(
            batch=64,
            kv_len=4096,
            lengths="zipf",
            num_q_heads=8 * group,
            num_kv_heads=8,
            head_dim=128,
            dtype="bfloat16",
        )
        for group in GROUPS
    ]


def grid_cells() -> list[AttentionCase]:
    """Batch and length x distribution x heads."""
    return [
        case
        for num_q_heads, num_kv_heads in HEADS
        for case in _cells(SHAPES, num_q_heads=num_q_heads, num_kv_heads=num_kv_heads)
    ]


def planned_cells() -> list[AttentionCase]:
    """A few targets, to time with a plan made in every call."""
    shapes = ((1, 4096), (16, 4096), (64, 4096), (128, 1024))
    return [c for c in _cells(shapes) if c.lengths != "uniform"]


def tiny_cells() -> list[AttentionCase]:
    """To see that everything runs, on any machine."""
    fields = {"num_q_heads": 4, "num_kv_heads": 2, "head_dim": 64}
    cells = _cells(((1, 70), (3, 40)), **fields)
    return [c for c in cells if c.lengths != "uniform"]


CELLS = {
    "targets": target_cells,
    "pages": page_size_cells,
    "groups": group_cells,
    "grid": grid_cells,
    "planned": planned_cells,
    "tiny": tiny_cells,
}


def cells(*names: str) -> list[AttentionCase]:
    """The cells of these lists, in order, each once; without those of "-NAME"."""
    without = {c.name for n in names if n[0] == "-" for c in CELLS[n[1:]]()}
    found = {c.name: c for n in names if n[0] != "-" for c in CELLS[n]()}
    return [case for name, case in found.items() if name not in without]


def kv_bytes(case: AttentionCase) -> int:
    """Bytes of K and V that one call reads."""
    row = case.num_kv_heads * 2 * case.head_dim * 2
    return int(case.make_lengths()[1].sum()) * row


def num_rotated(case: AttentionCase, calls: int) -> int:
    """Caches that calls take in turn, so that each finds nothing in the L2."""
    return max(2, min(calls, math.ceil(COLD_BYTES / kv_bytes(case))))


def page_tables(case: AttentionCase, count: int) -> tuple[int, list[np.ndarray]]:
    """(pages of the pool, `count` tables, each over a region of the pool of its own).

    The pages of a cache are in random order, but next to each other: a call that reads
    one cache touches no more memory than the cache is large, as in a harness that
    allocates every cache for itself, and address translation (TLBs) has no more to do.

    A table is i32[B, longest]; entries past a sequence's pages are 0.
    """
    assert case.page_size is not None
    counts = -(-case.make_lengths()[1] // case.page_size)
    used = int(counts.sum())
    rng = np.random.default_rng(case.seed)
    filled = np.arange(counts.max()) < counts[:, None]
    tables = np.zeros((count, *filled.shape), np.int32)
    for i in range(count):
        tables[i, filled] = i * used + rng.permutation(used)
    return count * used, [tables[i] for i in range(count)]


def value_scale(case: AttentionCase) -> float:
    """Standard deviation of V for which results can be the queries of the next call.

    Scores of queries with deviation s spread the weights over n / e^(s^2) of n keys.
    This deviation leads to s = 0.6 in the shortest sequence, call after call, and to
    less in others; a little more would grow until one key has all the weight, and none
    shrinks to scores that are all alike.
    """
    return 0.5 * math.sqrt(int(case.make_lengths()[1].min()))


def checked_seqs(case: AttentionCase) -> list[int]:
    """The shortest, a middle and the longest sequence, in decode and in prefill."""
    cu_q_lens, kv_lens = case.make_lengths()
    is_decode = np.diff(cu_q_lens) == 1
    found: set[int] = set()
    for seqs in map(np.flatnonzero, (is_decode, ~is_decode)):
        order = seqs[np.argsort(kv_lens[seqs], kind="stable")]
        found |= {int(order[i]) for i in (0, len(order) // 2, -1) if len(order)}
    return sorted(found)


_LONG = 16384  # keys of a sequence whose float64 attention takes a second


def checked_heads(case: AttentionCase) -> tuple[list[int], list[int]]:
    """(some KV heads, their query heads): the first and the last, or the last."""
    group = case.num_q_heads // case.num_kv_heads
    kv_heads = sorted({0, case.num_kv_heads - 1})
    if case.make_lengths()[1].max() > _LONG:
        kv_heads = kv_heads[-1:]
    return kv_heads, [head * group + i for head in kv_heads for i in range(group)]


def checked_caches(case: AttentionCase, count: int) -> list[int]:
    """The first and the last of the caches that calls take in turn."""
    return [count - 1] if case.make_lengths()[1].max() > _LONG else [0, count - 1]


def max_error(
    out: np.ndarray, query: np.ndarray, keys: list[np.ndarray], values: list[np.ndarray]
) -> float:
    """The largest error of the checked rows; raises if they are wrong.

    Args:
      out: [rows, heads, H], of the checked sequences and query heads alone.
      query: of the same.
      keys: one [kv_len, checked KV heads, H] per row.
      values: as keys.

    Raises:
      AssertionError: if the error is more than rounding explains.
    """
    lens = np.array([len(k) for k in keys], np.int32)
    operands = {
        "query": query,
        "key": np.concatenate(keys),
        "value": np.concatenate(values),
        "cu_q_lens": np.arange(len(lens) + 1, dtype=np.int32),
        "cu_kv_lens": np.cumsum([0, *lens], dtype=np.int32),
    }
    expected = attention_float64(operands).out
    error = float(np.abs(out.astype(np.float64) - expected).max())
    scale = float(np.abs(expected).max())
    if not error <= 0.02 * scale:
        raise AssertionError(f"wrong result: error {error:.3g} at scale {scale:.3g}")
    return float(f"{error:.3g}")
