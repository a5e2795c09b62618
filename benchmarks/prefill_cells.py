# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The cells of the prefill benchmark, in bfloat16, the most telling ones first.

In numpy alone, as the decode cells: what runs in PyTorch times the same cells.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from benchmarks.decode_cells import checked_heads
from benchmarks.gpu_timing import Settings
from jaxinfer.testing.cases import AttentionCase

PREFILL = "prefill"  # the benchmark's name in records
SHAPES = ((16, 1024), (8, 2048), (4, 4096), (2, 8192), (1, 16384))
CHUNK, CONTEXT = 512, 32768  # queries of a chunk; keys, its own included
PAGE_SIZES = (64, 128, 5, 1)  # beside 16, for the shapes that follow
_SOME_SHAPES = ((16, 1024), (2, 8192))
_ZIPF_SEQS = 16


def cells(is_quick: bool = False) -> list[AttentionCase]:
    """Without and with pages, chunks, unequal lengths; then other heads and masks."""
    if is_quick:
        fields = {"num_q_heads": 4, "num_kv_heads": 2, "head_dim": 64}
        return [
            square(2, 150, **fields),
            square(1, 40, page_size=16, **fields),
            _case(batch=2, q_len=20, kv_len=70, page_size=16, **fields),
            _unequal(np.array([30, 7, 133]), "zipf", None, **fields),
        ]
    paged = [square(*shape, page_size=16) for shape in SHAPES]
    chunks = [
        _case(batch=batch, q_len=CHUNK, kv_len=CONTEXT, page_size=16)
        for batch in (1, 4)
    ]
    unequal = [
        _unequal(lengths, label, page_size)
        for page_size in (None, 16)
        for label, lengths in (("uniform", uniform()), ("zipf", zipf()))
    ]
    mha = [square(*shape, num_kv_heads=32) for shape in SHAPES]
    other_pages = [
        square(*shape, page_size=p) for p in PAGE_SIZES for shape in _SOME_SHAPES
    ]
    full = [square(1, 16384, options={"is_causal": False})]
    other_heads = [square(*shape, head_dim=d) for d in (256, 64) for shape in SHAPES]
    gqa = [square(*shape) for shape in SHAPES]
    return gqa + paged + chunks + unequal + mha + full + other_pages + other_heads


def is_dense(case: AttentionCase) -> bool:
    """Whether it is plain attention of [B, S, heads, H]."""
    return case.page_size is None and case.q_lens is None


def uniform() -> np.ndarray:
    """As many lengths of U(512, 2048) as come nearest to the work of 8 x 2048."""
    drawn = np.random.default_rng(0).integers(512, 2049, 64)
    work = np.cumsum(drawn.astype(np.int64) ** 2)
    return drawn[: 1 + np.argmin(np.abs(work - 8 * 2048**2))]


def zipf() -> np.ndarray:
    """Lengths proportional to 1 / rank, in random order, with the work of 8 x 2048."""
    shares = np.random.default_rng(0).permutation(1 / np.arange(1, _ZIPF_SEQS + 1))
    scale = np.sqrt(8 * 2048**2 / np.sum(shares**2))
    return (scale * shares).astype(np.int64)


def _case(**fields: Any) -> AttentionCase:
    defaults: dict[str, Any] = {"num_q_heads": 32, "num_kv_heads": 8, "head_dim": 128}
    return AttentionCase(dtype="bfloat16", **(defaults | fields))


def square(batch: int, seq_len: int, **fields: Any) -> AttentionCase:
    """Sequences of as many queries as keys."""
    fields = {"page_size": None} | fields
    return _case(batch=batch, q_len=seq_len, kv_len=seq_len, **fields)


def _unequal(
    lengths: np.ndarray, label: str, page_size: int | None, **fields: Any
) -> AttentionCase:
    lens = tuple(lengths.tolist())
    fields |= {"q_lens": lens, "kv_lens": lens, "label": label}
    return _case(page_size=page_size, **fields)


def timing(case: AttentionCase, settings: Settings) -> Settings:
    """How a cell is timed: in programs that are not too long; some after a rest too."""
    settings = settings.for_flops(case.num_flops())
    if case not in [square(*shape) for shape in SHAPES]:
        return settings
    return dataclasses.replace(settings, bursts=3)


def slots(case: AttentionCase, seq: int, table: np.ndarray | None) -> np.ndarray:
    """Where the keys of a sequence are, in keys or in pages one after the other."""
    kv_lens, size = case.make_lengths()[1], case.page_size
    at = np.arange(kv_lens[seq])
    if table is None or size is None:
        return at + kv_lens[:seq].sum()
    return table[seq][at // size] * size + at % size


def checked_rows(case: AttentionCase, seq: int) -> np.ndarray:
    """Some queries of a sequence: the first, the last, and around borders of tiles."""
    num = int(np.diff(case.make_lengths()[0])[seq])
    rows = np.array([0, 127, 128, num // 2 + 5, num - 1])
    return np.unique(rows[rows < num])


def max_error(
    case: AttentionCase,
    seq: int,
    out: np.ndarray,
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
) -> float:
    """The largest error of the checked rows and heads of a sequence.

    Args:
      case: which.
      seq: the sequence.
      out: [rows, query heads, H].
      query: of the same.
      key: [kv_len, KV heads, H].
      value: as key.

    Raises:
      AssertionError: if the error of some row is more than rounding explains.
    """
    past = len(key) - np.diff(case.make_lengths()[0])[seq]
    position = past + checked_rows(case, seq)[:, None]
    group, worst = case.num_q_heads // case.num_kv_heads, 0.0
    heads = checked_heads(case)[1]
    for head in range(query.shape[1]):
        q, k, v = (
            x[:, i].astype(np.float64)
            for x, i in ((query, head), (key, head // group), (value, head // group))
        )
        scores = q @ k.T / math.sqrt(case.head_dim)
        if case.is_causal:
            scores = np.where(np.arange(len(k)) <= position, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        expected = weights @ v / weights.sum(-1, keepdims=True)
        error = error_of_rows(out[:, head], expected, heads[head], position[:, 0])
        worst = max(worst, error)
    return float(f"{worst:.3g}")


def error_of_rows(
    out: np.ndarray, expected: np.ndarray, head: int, positions: np.ndarray
) -> float:
    """The largest error of the rows of a head.

    Args:
      out: [rows, H].
      expected: f64[rows, H].
      head: which.
      positions: [rows], of these in their sequence.

    Raises:
      AssertionError: if the error of some row is more than rounding explains. Of each
        row, for the results of late ones are small.
    """
    error = np.abs(out.astype(np.float64) - expected).max(-1)
    scale = np.abs(expected).max(-1)
    if not (error <= 0.02 * scale).all():
        raise AssertionError(
            f"wrong result: error {error.max():.3g} at scale {scale.max():.3g}, "
            f"worst in head {head} at position {positions[np.argmax(error / scale)]}"
        )
    return float(error.max())
