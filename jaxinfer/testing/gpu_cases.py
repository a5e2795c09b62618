# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The attention cases of the CUDA kernels: FlashInfer's test grids, made ragged.

Every group size meets every page size, and every head size every kind of lengths; the
options take turns, so that each meets most values of the other axes.
"""

import dataclasses
import itertools
from typing import Any

from jaxinfer.testing.attention_cases import PAGED, RAGGED
from jaxinfer.testing.cases import AttentionCase

_GROUPS = (1, 3, 4, 7, 8, 16)
_PAGE_SIZES = (1, 5, 8, 16, 64, 128)
_HEAD_DIMS = (64, 96, 128, 192, 256)
_DTYPES = ("bfloat16", "float16")

# New tokens and keys of each sequence; (none) stands for lengths drawn by the case.
_LENGTHS: dict[str, dict[str, Any]] = {
    "decode": {"q_lens": (1,) * 9, "kv_lens": (1, 0, 17, 300, 16, 4097, 63, 129, 1000)},
    "verify": {"q_lens": (5, 1, 3, 4), "kv_lens": (700, 30, 3, 4)},
    "mixed": {"q_lens": (130, 1, 0, 1, 77), "kv_lens": (400, 2100, 5, 0, 77)},
    "prefill": {"q_lens": (513, 127, 64), "kv_lens": (513, 1000, 40)},
    "long": {"q_lens": (1, 2), "kv_lens": (33000, 20011)},
    "zipf": {"batch": 64, "kv_len": 500, "lengths": "zipf"},
}

_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"options": {"local_window_size": (100, None)}},
    {"options": {"logits_soft_cap": 30.0}, "num_layers": 3},
    {"has_sink": True, "num_padding": 5},
    {"is_csr": True, "scales": "head"},
    {"options": {"is_causal": False}},
    {"options": {"is_causal": False, "local_window_size": (40, 3)}, "has_sink": True},
    {"options": {"scale": -0.1}, "scales": "scalar", "is_csr": True},
    {"options": {"use_softmax": False, "scale": 0.01}, "num_layers": 2},
)


def _grid() -> list[AttentionCase]:
    axes = itertools.product(_GROUPS, _PAGE_SIZES)
    lengths = itertools.cycle(_LENGTHS.items())
    head_dims = itertools.cycle(_HEAD_DIMS)
    dtypes = itertools.cycle(_DTYPES)
    options = itertools.cycle(_OPTIONS)
    cases = []
    for turn, (group, page_size) in enumerate(axes):
        kv_heads = 2 if turn % 3 else 1
        # Two cases a pair: six kinds of lengths and five head sizes drift apart.
        for _ in range(2):
            name, lens = next(lengths)
            cases.append(
                AttentionCase(
                    num_q_heads=group * kv_heads,
                    num_kv_heads=kv_heads,
                    head_dim=next(head_dims),
                    page_size=page_size,
                    dtype=next(dtypes),
                    label=f"{name}{len(cases)}",
                    seed=len(cases),
                    **lens,
                    **next(options),
                )
            )
        next(dtypes)
    return cases


def _in_16_bit(case: AttentionCase) -> AttentionCase:
    dtype = case.dtype if case.dtype != "float32" else "bfloat16"
    return dataclasses.replace(case, dtype=dtype, kv_dtype=None)


def _has_kernel(case: AttentionCase) -> bool:
    return (case.head_dim_v or 0) <= 128 or case.head_dim > 128


PAGED_16_BIT = [_in_16_bit(case) for case in PAGED if _has_kernel(case)]
RAGGED_16_BIT = [_in_16_bit(case) for case in RAGGED if _has_kernel(case)]
GRID = _grid()
# Tiles of 128 packed rows, several a sequence, and tiles that are not full.
LONG_TILES = AttentionCase(
    q_lens=(257, 150, 64, 500, 129),
    kv_lens=(257, 350, 64, 650, 129),
    num_q_heads=4,
    num_kv_heads=2,
    head_dim=128,
    dtype="bfloat16",
)
