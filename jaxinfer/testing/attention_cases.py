# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The cases that every implementation of attention is held against float64 on.

A covering set, not a product: each value of each axis (group size, page size, head
sizes, dtypes, masks, page lists, options) meets most values of the others somewhere.
"""

import dataclasses
from typing import Any

from jaxinfer.testing.cases import AttentionCase

# Prefill, decode, an empty sequence, no keys at all, more queries than keys.
_MIXED: dict[str, Any] = {
    "q_lens": (40, 1, 0, 2, 9, 3),
    "kv_lens": (100, 131, 5, 0, 4, 3),
}
_DECODE: dict[str, Any] = {"q_lens": (1,) * 5, "kv_lens": (1, 15, 16, 17, 300)}
_CHUNKED: dict[str, Any] = {"q_lens": (25, 18, 1), "kv_lens": (270, 18, 257)}


def _case(label: str, lengths: dict[str, Any], **fields: Any) -> AttentionCase:
    return AttentionCase(label=label, seed=len(label), **(lengths | fields))


PAGED = [
    _case("plain", _MIXED),
    _case("one_head", _DECODE, num_q_heads=1, num_kv_heads=1, page_size=1),
    _case(
        "wide_values",
        _MIXED,
        num_q_heads=9,
        num_kv_heads=3,
        head_dim_v=128,
        page_size=5,
        dtype="bfloat16",
        is_csr=True,
        num_padding=3,
        has_sink=True,
    ),
    _case(
        "full_cap",
        _CHUNKED,
        num_q_heads=8,
        head_dim=128,
        page_size=128,
        dtype="float16",
        scales="head",
        options={"is_causal": False, "logits_soft_cap": 5.0},
    ),
    _case(
        "left_window",
        _MIXED,
        num_q_heads=7,
        num_kv_heads=1,
        head_dim=96,
        page_size=1,
        kv_dtype="bfloat16",
        num_layers=3,
        options={"local_window_size": (10, None)},
    ),
    _case(
        "right_window",
        _CHUNKED,
        num_q_heads=16,
        head_dim=192,
        head_dim_v=128,
        page_size=64,
        dtype="bfloat16",
        is_csr=True,
        options={"is_causal": False, "local_window_size": (None, 3)},
    ),
    _case(
        "both_windows",
        _MIXED,
        num_q_heads=16,
        num_kv_heads=1,
        head_dim=256,
        page_size=8,
        dtype="float16",
        scales="scalar",
        has_sink=True,
        num_padding=40,
        options={"is_causal": False, "local_window_size": (5, 7)},
    ),
    _case(
        "causal_window",
        _CHUNKED,
        num_q_heads=8,
        num_kv_heads=8,
        head_dim=128,
        dtype="bfloat16",
        kv_dtype="float32",
        num_padding=1,
        options={"local_window_size": (33, None), "logits_soft_cap": 2.0},
    ),
    _case(
        "no_softmax",
        _MIXED,
        num_q_heads=6,
        scales="head",
        options={"use_softmax": False, "scale": 0.3},
    ),
    _case(
        "narrow_values",
        _DECODE,
        num_q_heads=8,
        head_dim=256,
        head_dim_v=64,
        page_size=5,
        dtype="bfloat16",
        is_csr=True,
        num_layers=2,
        has_sink=True,
        options={"local_window_size": 20},
    ),
    _case(
        "group_16",
        _DECODE,
        num_q_heads=32,
        page_size=64,
        dtype="float16",
        kv_dtype="bfloat16",
        num_padding=2,
        options={"scale": 0.5},
    ),
    _case(
        "group_7",
        _CHUNKED,
        num_q_heads=14,
        head_dim=192,
        page_size=8,
        scales="scalar",
        has_sink=True,
    ),
    _case(
        "no_softmax_window",
        _CHUNKED,
        num_q_heads=8,
        num_kv_heads=1,
        head_dim=96,
        head_dim_v=64,
        page_size=128,
        dtype="bfloat16",
        is_csr=True,
        options={
            "use_softmax": False,
            "is_causal": False,
            "local_window_size": (16, 0),
            "logits_soft_cap": 30.0,
        },
    ),
    _case("own_key", _MIXED, dtype="float16", options={"local_window_size": 0}),
    AttentionCase(batch=16, kv_len=300, lengths="zipf", num_q_heads=6, page_size=5),
    AttentionCase(batch=2, kv_len=3000, lengths="uniform", q_len=4, dtype="bfloat16"),
]

# Without pages the arithmetic is the same: fewer cases do.
_RAGGED = {"plain", "wide_values", "left_window", "right_window", "both_windows"}
_RAGGED |= {"causal_window", "no_softmax", "own_key"}
RAGGED = [
    dataclasses.replace(case, page_size=None, is_csr=False, num_layers=None)
    for case in PAGED
    if case.label in _RAGGED
]
