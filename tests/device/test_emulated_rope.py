# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The CUDA rope and rope_update_kv_pages, handlers and kernels, on the host."""

import emulation
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rope_oracle import assert_rotated, rotate, tolerance
from test_emulated_append import check as check_append

from jaxinfer.ops.rope import rope_frequencies

NONE = np.zeros(0, np.int32)


@pytest.mark.parametrize("is_interleaved", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("tokens", "heads", "head_dim", "rotary_dim"),
    [(5, 8, 128, 128), (3, 1, 64, 32), (1, 33, 256, 192), (4, 2, 24, 20), (2, 3, 7, 2)],
)
def test_rope(tokens, heads, head_dim, rotary_dim, dtype, is_interleaved):
    """Whole vectors and single elements; positions up to a million."""
    rng = np.random.default_rng(head_dim)
    x = rng.standard_normal((tokens, heads, head_dim)).astype(jnp.dtype(dtype))
    positions = rng.integers(0, 2**20, tokens, dtype=np.int32)
    positions[0] = -3
    frequencies = rope_frequencies(head_dim, 5e5, rotary_dim, None)
    result = jax.ShapeDtypeStruct(x.shape, x.dtype)
    call = jax.jit(
        lambda *operands: emulation.call(
            "rope", result, *operands, is_interleaved=is_interleaved, seed=tokens
        )
    )
    got = call(x, positions, frequencies)
    assert_rotated(got, x, positions, frequencies, is_interleaved)


def append(operands, is_interleaved, seed):
    """(query, k_pages, v_pages) from the emulated target."""
    results = [
        jax.ShapeDtypeStruct(operands[name].shape, operands[name].dtype)
        for name in ("query", "k_pages", "v_pages")
    ]
    call = jax.jit(
        lambda *values: emulation.call(
            "rope_update_kv_pages",
            results,
            *values,
            aliases={1: 1, 2: 2},
            is_interleaved=is_interleaved,
            seed=seed,
        )
    )
    return list(map(np.asarray, call(*operands.values())))


@pytest.mark.parametrize("form", ["table", "csr", "slots", "positions", "decode"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "head_dim", "head_dim_v", "rotary_dim"),
    [
        (8, 2, 128, 64, 128),
        (3, 3, 64, 96, 16),
        (40, 8, 128, 128, 128),
        (2, 1, 10, 6, 8),
    ],
)
def test_rope_and_append(
    num_heads, num_kv_heads, head_dim, head_dim_v, rotary_dim, dtype, form
):
    dtype, rng = jnp.dtype(dtype), np.random.default_rng(num_heads)
    q_lens = np.array([1, 1, 1, 1, 1] if form == "decode" else [1, 0, 7, 2, 3])
    kv_lens = np.array([5, 3, 9, 1, 14], np.int32)  # one with more queries than keys
    cu_q_lens = np.append(0, np.cumsum(q_lens)).astype(np.int32)
    num_tokens, num_pages, page_size = int(cu_q_lens[-1]) + 2, 30, 3
    seq = np.repeat(np.arange(5), q_lens)
    positions = kv_lens[seq] - cu_q_lens[seq + 1] + np.arange(len(seq))
    positions = np.append(positions, [0, 0]).astype(np.int32)
    table = rng.permutation(num_pages)[:25].reshape(5, 5).astype(np.int32)
    table[2, 1] = num_pages  # not in the cache
    lists = [NONE, table, NONE, kv_lens, cu_q_lens]
    if form == "csr":
        lists[1:3] = table.ravel(), np.arange(6, dtype=np.int32) * 5
    if form == "decode":  # one token each, and two padding rows
        lists[-1] = NONE
    if form == "slots":
        slots = rng.permutation(num_pages * page_size)[:num_tokens].astype(np.int32)
        slots[3] = -1
        lists = [slots, np.zeros((1, 0), np.int32), NONE, NONE, NONE]
    given = form in ("slots", "positions")
    if given:
        positions = rng.integers(0, 10**6, num_tokens, dtype=np.int32)
    pages = 2, num_pages, page_size, num_kv_heads
    names = ["slot_mapping", "page_table", "page_indptr", "kv_lens", "cu_q_lens"]
    operands = {
        "query": rng.standard_normal((num_tokens, num_heads, head_dim)),
        "k_pages": rng.standard_normal((*pages, head_dim)),
        "v_pages": rng.standard_normal((*pages, head_dim_v)),
        "key": rng.standard_normal((num_tokens, num_kv_heads, head_dim)),
        "value": rng.standard_normal((num_tokens, num_kv_heads, head_dim_v)),
    }
    operands = {name: x.astype(dtype) for name, x in operands.items()}
    operands |= dict(zip(names, lists, strict=True)) | {"layer": np.int32(1)}
    operands["positions"] = positions if given else NONE
    frequencies = rope_frequencies(head_dim, 1e4, rotary_dim, None)
    operands["frequencies"] = frequencies
    is_interleaved = form == "csr"
    query, k_pages, v_pages = append(operands, is_interleaved, seed=head_dim)
    turn = positions, frequencies, is_interleaved
    assert_rotated(query, operands["query"], *turn)
    # Keys that are right to their rounding count as the right bits.
    close = tolerance(operands["key"])
    want = rotate(operands["key"], *turn)
    k_rows = k_pages.reshape(2, -1, *want.shape[1:])
    exact = np.zeros(want.shape, dtype)
    for token in range(num_tokens):
        error = np.abs(k_rows[1].astype(np.float64) - want[token]).max((1, 2))
        if error.min() <= close:
            exact[token] = k_rows[1, error.argmin()]
    hits = check_append(operands | {"key": exact}, [k_pages, v_pages])
    assert hits.sum() >= num_tokens - 7


def test_without_slots_or_lengths_there_is_no_position():
    operands = {
        name: np.zeros((1, 1, 1, 64) if "pages" in name else (1, 1, 64), np.float32)
        for name in ("query", "k_pages", "v_pages", "key", "value")
    }
    slots = np.zeros(1, np.int32)
    lists = [slots, np.zeros((1, 0), np.int32), NONE, NONE, NONE, NONE, NONE]
    operands |= {str(i): x for i, x in enumerate(lists)}
    operands["frequencies"] = np.ones(32, np.float32)
    with pytest.raises(Exception, match="positions axis 0 must be 1, got 0"):
        append(operands, False, 0)
