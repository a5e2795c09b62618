# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The benchmarks of variants run, and hold results against an oracle that can tell."""

import dataclasses
import importlib.util
import itertools

import numpy as np
import pytest

import jaxinfer as ji
from benchmarks import (
    bench_streaming,
    bench_variants,
    bench_variants_jit,
    decode_cells,
    jobs,
    variant_cells,
)
from benchmarks.gpu_timing import QUICK, Settings
from benchmarks.peers.process import FLEX_ATTENTION, peer_records
from benchmarks.variant_cells import PrefillCell
from jaxinfer.testing.cases import AttentionCase
from jaxinfer.testing.numerics import attention_float64

CELLS = variant_cells.prefill_cells(is_quick=True)


def test_prefill_is_measured():
    cell = dataclasses.replace(CELLS[0], variants=("causal", "alibi", "documents"))
    made = list(bench_variants.records([cell], QUICK))
    assert [one.get("why") for one in made] == [None] * len(made)
    cases = [cell.case(name) for name in cell.variants]
    assert [m["case"] for m in made if m["impl"] == "jaxinfer"] == cases
    mapped = [m["case"] for m in made if m["impl"] == bench_variants.MAPPED]
    assert mapped == cases[-1:]
    assert all(m["tflops"] > 0 and m["max_err"] < 0.05 for m in made)
    assert all(("of_causal" in m) == ("causal" not in m["case"]) for m in made)


def test_streaming_llm_is_measured():
    cells = variant_cells.streaming_cells(is_quick=True)
    made = list(bench_streaming.records(cells, QUICK))
    assert [one.get("why") for one in made] == [None] * 3
    _, separate, fused = made
    assert separate["options"] == {"rope": "xla"}
    assert fused["speed_of_separate"] == round(separate["us"] / fused["us"], 3)
    for one in made:  # rates are ratios of times
        expected = decode_cells.kv_bytes(cells[0]) / one["us"] / 1e6
        assert one["tbps"] == round(expected, 5)


@pytest.mark.nvrtc
def test_compilation_is_measured():
    made = list(bench_variants_jit.records(1))
    assert [one.get("why") for one in made] == [None] * 8
    expected = itertools.product(
        ("alibi", "rope"), ("decode", "prefill"), ("empty cache", "in the cache")
    )
    assert [one["case"] for one in made] == [", ".join(case) for case in expected]
    assert all(one["us"] > 0 for one in made)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
@pytest.mark.parametrize("name", variant_cells.VARIANTS)
def test_the_oracle_is_that_of_the_tests(cell, name, monkeypatch):
    for module in (variant_cells, bench_variants):
        monkeypatch.setattr(module, "WINDOW", 100)
    rng = np.random.default_rng(0)
    heads = (cell.num_q_heads, cell.num_kv_heads, cell.num_kv_heads)
    query, key, value = (
        rng.normal(size=(cell.num_tokens, n, cell.head_dim)).astype(np.float32)
        for n in heads
    )
    lens = {"cu_q_lens": cell.cu_q_lens, "cu_kv_lens": cell.cu_q_lens}
    operands = {"query": query, "key": key, "value": value} | lens
    variant = bench_variants._variants(cell, name)["jaxinfer"]()
    out = attention_float64(operands, variant=variant).out
    error = bench_variants._check(cell, name, out, (query, key, value))
    assert error < 1e-5
    row = cell.checked_rows()[-1] - cell.seq_len  # of the last sequence
    out[row, -1] *= 1.1
    with pytest.raises(AssertionError, match="wrong result"):
        bench_variants._check(cell, name, out, (query, key, value))


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_work_is_what_queries_see(cell):
    case = AttentionCase(
        batch=cell.batch,
        kv_len=cell.seq_len,
        q_len=cell.seq_len,
        num_q_heads=cell.num_q_heads,
        num_kv_heads=cell.num_kv_heads,
        head_dim=cell.head_dim,
        page_size=None,
    )
    causal = case.num_flops()
    assert cell.num_flops("causal") == cell.num_flops("alibi") == causal
    assert cell.num_flops("window1024") == causal
    cut = PrefillCell(4, cell.seq_len // 4, cell.num_q_heads, 1, cell.head_dim)
    documents = cell.batch * cut.num_flops("causal") // cut.batch * 4
    assert cell.num_flops("documents") == documents


def test_windows_save_work():
    cell = PrefillCell(1, 4096)
    seen = 1024 * 1025 // 2 + 3072 * 1024
    assert cell.num_flops("window1024") == 4 * 128 * 16 * seen


def test_long_calls_make_short_programs():
    made = {
        (cell.seq_len, cell.settings("causal", Settings()).calls)
        for cell in variant_cells.prefill_cells()
        if cell.batch == 16
    }
    assert {(512, 24), (16384, 1)} <= made


def test_keys_turn_by_their_distance_to_the_query():
    keys = np.random.default_rng(1).normal(size=(5, 2, 8)).astype(np.float32)
    made = variant_cells.turned(keys)
    np.testing.assert_array_equal(made[-1], keys[-1])
    expected = ji.rope(keys, np.arange(5, dtype=np.int32))
    query = ji.rope(keys[:1], np.array([4], np.int32))
    scores = np.einsum("shd,hd->sh", expected, np.asarray(query)[0])
    got = np.einsum("shd,hd->sh", made, keys[0])
    np.testing.assert_allclose(got, scores, rtol=1e-5, atol=1e-5)


def test_a_missing_peer_is_a_record():
    if importlib.util.find_spec("torch") is not None:
        pytest.skip("PyTorch is here")
    (made,) = peer_records(FLEX_ATTENTION, ["--quick"], 1.0)
    assert (made["benchmark"], made["impl"]) == ("variants", "flex_attention")
    assert made["us"] is None


def test_variants_are_jobs():
    names = [name for name, _ in jobs.gpu()]
    assert {"variants", "variants-flex"} <= set(names)
