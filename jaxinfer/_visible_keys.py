# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The keys that masks of lengths and windows show, counted on the host."""

from typing import Any

import numpy as np


def visible_keys(
    cu_q_lens: np.ndarray,
    kv_lens: np.ndarray,
    *,
    is_causal: bool = True,
    local_window_size: Any = None,
    **_: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """The keys [lo, hi) that each row sees: two i64[cu_q_lens[B]]."""
    q_lens = np.diff(cu_q_lens.astype(np.int64))
    seq = np.repeat(np.arange(len(q_lens)), q_lens)
    kv_len = kv_lens.astype(np.int64)[seq]
    position = kv_len - cu_q_lens[1:][seq] + np.arange(len(seq))
    window = local_window_size
    left, right = (
        (window, window) if isinstance(window, int) else window or (None, None)
    )
    if is_causal:
        right = 0
    lo = np.zeros_like(position) if left is None else np.maximum(position - left, 0)
    hi = kv_len if right is None else np.minimum(kv_len, position + right + 1)
    return lo, np.maximum(hi, lo)


def needed_keys(
    cu_q_lens: np.ndarray, kv_lens: np.ndarray, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The keys [begin, end) that some row of each sequence sees: two i64[B]."""
    lo, hi = visible_keys(cu_q_lens, kv_lens, **options)
    begin = np.full(len(kv_lens), np.iinfo(np.int64).max)
    end = np.zeros(len(kv_lens), np.int64)
    seq = np.repeat(np.arange(len(kv_lens)), np.diff(cu_q_lens))
    seen = hi > lo
    np.minimum.at(begin, seq[seen], lo[seen])
    np.maximum.at(end, seq[seen], hi[seen])
    return np.minimum(begin, end), end
