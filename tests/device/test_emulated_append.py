# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The CUDA update_kv_pages, handler and kernel, on the host: bit for bit a loop."""

import math

import emulation
import fuzz_calls
import fuzz_ffi
import fuzz_oracles
import jax
import numpy as np
import pytest


def check(operands, results):
    """Every byte of both caches, but for slots that several tokens go to."""
    layer = operands["layer"]
    for pages, new, got in zip(
        (operands["k_pages"], operands["v_pages"]),
        (operands["key"], operands["value"]),
        results,
        strict=True,
    ):
        lead = pages.shape[:1] if layer.size else (1,)
        num_pages = math.prod(pages.shape[:-3]) // lead[0]
        want = pages.reshape(*lead, num_pages * pages.shape[-3], -1).copy()
        slots = fuzz_oracles.slots_of(operands, num_pages, pages.shape[-3])
        at = min(max(int(layer), 0), lead[0] - 1) if layer.size else 0
        hits = np.bincount(slots + 1, minlength=want.shape[1] + 1)[1:]
        for token in np.flatnonzero(slots >= 0):
            want[at, slots[token]] = new[token].ravel()
        got = got.reshape(want.shape).copy()
        got[at, hits > 1] = want[at, hits > 1]
        assert got.tobytes() == want.tobytes()
    return hits


def run(call, seed):
    """(k_pages, v_pages) from the emulated target."""
    results = jax.jit(
        lambda *operands: emulation.call(
            call.op, call.result_types, *operands, aliases=call.aliases, seed=seed
        )
    )(*call.operands.values())
    return list(map(np.asarray, results))


@pytest.mark.parametrize("seed", range(60))
def test_fuzzed_appends(seed):
    """Any int32 as length, offset, page, slot or layer; both forms; odd row sizes."""
    rng = np.random.default_rng(seed)
    call = fuzz_calls.good_call(rng, op="update_kv_pages", unusual=seed % 3 == 0)
    if not fuzz_oracles.fits(call) or not all(x.size for x in call.results.values()):
        return
    for _ in range(4):
        check(call.operands, run(call, int(rng.integers(2**31))))
        for name, x in call.operands.items():
            if x.dtype == np.int32 and rng.random() < 0.5:
                call.operands[name] = fuzz_ffi.spoil_contents(rng, x)


@pytest.mark.parametrize(
    ("num_seqs", "num_heads", "head_dim"),
    [(200, 1, 64), (700, 2, 96), (33, 32, 128), (150, 3, 17), (130, 1, 8)],
)
def test_many_sequences_and_wide_rows(num_seqs, num_heads, head_dim):
    """More sequences than a warp looks at together; rows longer than a CTA holds."""
    rng = np.random.default_rng(num_seqs)
    q_lens = rng.integers(0, 4, num_seqs)
    cu_q_lens = np.append(0, np.cumsum(q_lens)).astype(np.int32)
    num_tokens = int(cu_q_lens[-1]) + 5
    table = rng.permutation(num_seqs * 3).reshape(num_seqs, 3).astype(np.int32)
    rows = num_heads, head_dim
    pages = rng.standard_normal((num_seqs * 3, 5, *rows), np.float32)
    new = rng.standard_normal((num_tokens, *rows), np.float32)
    none = np.zeros(0, np.int32)
    operands = {
        "k_pages": pages, "v_pages": -pages, "key": new, "value": -new,
        "slot_mapping": none, "page_table": table, "page_indptr": none,
        "kv_lens": rng.integers(q_lens, 16, dtype=np.int32), "cu_q_lens": cu_q_lens,
        "layer": none,
    }  # fmt: skip
    results = dict.fromkeys(("k_new", "v_new"), pages)
    call = fuzz_calls.Call("update_kv_pages", operands, results, {})
    assert check(operands, run(call, 0)).sum() == cu_q_lens[-1]


@pytest.mark.parametrize("num_tokens", [3, 40, 45])
@pytest.mark.parametrize("is_csr", [False, True], ids=["table", "csr"])
def test_absent_offsets_are_those_of_one_token_each(num_tokens, is_csr):
    """For fewer tokens than the 40 sequences, as many, and some padding rows."""
    rng = np.random.default_rng(num_tokens)
    none, rows = np.zeros(0, np.int32), (2, 24)
    table = rng.permutation(40 * 3).reshape(40, 3).astype(np.int32)
    table[7, 0] = -1
    pages = rng.standard_normal((40 * 3, 5, *rows), np.float32)
    new = rng.standard_normal((num_tokens, *rows), np.float32)
    kv_lens = rng.integers(1, 15, 40, dtype=np.int32)
    kv_lens[[0, 2, 9, 20]] = 0, -(2**31), 2**31 - 1, 16  # 16: beyond the list
    operands = {
        "k_pages": pages, "v_pages": -pages, "key": new, "value": -new,
        "slot_mapping": none, "page_table": table.ravel() if is_csr else table,
        "page_indptr": np.arange(41, dtype=np.int32) * 3 if is_csr else none,
        "kv_lens": kv_lens, "cu_q_lens": none, "layer": none,
    }  # fmt: skip
    results = dict.fromkeys(("k_new", "v_new"), pages)
    call = fuzz_calls.Call("update_kv_pages", operands, results, {})
    got = run(call, num_tokens)
    assert check(operands, got).sum() >= min(num_tokens, 40) - 5
    operands["cu_q_lens"] = np.arange(41, dtype=np.int32)
    for one, other in zip(got, run(call, 0), strict=True):
        assert one.tobytes() == other.tobytes()
