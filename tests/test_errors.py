# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Every error that is raised at trace time, by its text.

A text names the argument, the expectation and the value. The last test fails for a
`raise` that no row of the table reaches.
"""

import ast
import re
import traceback
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from error_calls import (
    CSR,
    HUGE,
    LISTS,
    MAPPED,
    PAGE,
    PAGES,
    QUERY,
    STACKED,
    TILES,
    B,
    H,
    K,
    N,
    P,
    S,
    T,
    append,
    by_slot,
    dense,
    for_cuda,
    i32,
    in_layer,
    merge,
    old_jaxlib,
    paged,
    plan,
    plan_of,
    planned_for,
    planned_for_a_cpu,
    ragged,
    rotate,
    rotate_and_append,
    scaled,
    slots,
    traced,
    under_vmap,
    with_target,
    zeros,
)  # fmt: skip

import jaxinfer as ji
from jaxinfer.testing.numerics import assert_close

PACKAGE = Path(ji.__file__).parent
# Bookkeeping on the host, the Flax layer, run-time compilation and the tracing of
# variants have their own tests.
ELSEWHERE = {"page_pool.py", "flax.py", "jit", "variant", "warmup.py"}
VALUE, MISSING = ValueError, NotImplementedError

ROWS = [
    # shapes, dtypes and sizes of arrays
    ("rank", paged(query=zeros(T, H)), VALUE,
     r"query must have shape \[T, N, H\] \(rank 3\), got shape \(6, 64\)"),
    ("pages rank", paged(k_pages=STACKED), VALUE,
     r"k_pages must have shape \[P, page_size, K, H\], or \[L, .*\] together with "
     r"`layer`; got shape \(2, 5, 8, 2, 64\) without it"),
    ("v_pages rank", paged(v_pages=STACKED), VALUE,
     r"v_pages must .* got shape \(2, 5"),
    ("layer of one", paged(layer=jnp.int32(0)), VALUE,
     r"k_pages must have shape \[L, P, page_size, K, H\] \(rank 5\), got shape \(5, 8"),
    ("disagreement", paged(query=zeros(T, N, 96)), VALUE,
     r"query must have shape \[T, N, H\] with H = 64, got 96 on axis 2 \(shape"),
    ("kv_lens rank", paged(kv_lens=i32(1, 2)), VALUE,
     r"cu_q_lens must have shape \[B\+1\] with B\+1 = 3, got 4 on axis 0"),
    ("page_table rows", paged(page_table=zeros(2, 2, dtype=jnp.int32)), VALUE,
     r"page_table must have shape \[B, max_pages\] with B = 3, got 2 on axis 0"),
    ("page_table of CSR", paged(page_indptr=i32(0, 2, 4, 6)), VALUE,
     r"page_table must have shape \[num_indices\] \(rank 1\), got shape \(3, 2\)"),
    ("empty", paged(query=zeros(0, N, H)), VALUE,
     r"the number of tokens \(T\) must be at least 1, got 0"),
    ("no sequence", plan(kv_lens=i32(), cu_q_lens=i32(0)), VALUE,
     r"num_seqs must be a Python int in \[1, 2\^31\), got 0"),
    ("query dtype", paged(query=QUERY.astype(jnp.int8)), VALUE,
     r"query must be one of \('float32', 'float16', 'bfloat16'\), got int8"),
    ("pages dtypes", paged(v_pages=PAGES.astype(jnp.bfloat16)), VALUE,
     r"v_pages must have the dtype of k_pages \(float32\), got bfloat16"),
    ("key dtype", append(key=zeros(T, K, H, dtype=jnp.float16)), VALUE,
     r"key must have the dtype of k_pages \(float32\), got float16"),
    ("float page_table", paged(page_table=zeros(B, 2)), VALUE,
     r"page_table must be int32, got float32"),
    ("float kv_lens", paged(kv_lens=zeros(B)), VALUE,
     r"kv_lens must be int32, got float32"),
    ("float cu_q_lens", ragged(cu_q_lens=zeros(B + 1)), VALUE,
     r"cu_q_lens must be int32, got float32"),
    ("float page_indptr", paged(**(CSR | {"page_indptr": zeros(B + 1)})), VALUE,
     r"page_indptr must be int32, got float32"),
    ("float slots", by_slot(slot_mapping=zeros(T)), VALUE,
     r"slot_mapping must be int32, got float32"),
    ("float layer", paged(k_pages=STACKED, v_pages=STACKED, layer=0.0), VALUE,
     r"layer must be int32, got float32"),
    ("int64 plan", plan(kv_lens=np.arange(3)), VALUE,
     r"kv_lens must be int32, got int64"),
    ("int sink", paged(attention_sink=i32(1, 2, 3, 4)), VALUE,
     r"attention_sink must be float32, got int32"),
    ("int is_active", slots(is_active=i32(1, 0, 1)), VALUE,
     r"is_active must be bool, got int32"),
    ("head counts", paged(query=zeros(T, 5, H)), VALUE,
     r"query heads must be a multiple of the number of KV heads, got 5 and 2"),
    ("head_dim", dense(query=zeros(B, T, N, 80), key=zeros(B, S, K, 80),
                       value=zeros(B, S, K, 80)), MISSING,
     r"head_dim must be one of \(64, 96, .*\), got 80; implementation='xla' runs any"),
    ("head_dim_v", paged(v_pages=zeros(P, PAGE, K, 16)), MISSING,
     r"head_dim_v must be one of \(64, .*\), got 16"),
    ("scale per head", ragged(k_scale=zeros(3)), VALUE,
     r"k_scale must have shape \[\] or \[2\], got \(3,\)"),
    ("too many splits", merge(outs=zeros(65, 1, 1, H), lses=zeros(65, 1, 1)), VALUE,
     r"outs must hold at most 64 partial results, got 65; merge in several steps"),
    ("bias shape", dense(bias=zeros(B, N, T, S + 1)), VALUE,
     r"bias must broadcast to \[B, N, T, S\] = \[3, 4, 6, 7\], got shape \(3, 4"),
    ("float mask", dense(mask=zeros(T, S)), VALUE,
     r"mask must be bool, got float32; add floats as bias"),
    ("seq lengths", dense(key_value_seq_lengths=i32(1, 2)), VALUE,
     r"key_value_seq_lengths must have shape \[B\] with B = 3, got 2 on axis 0"),
    ("rope", rotate(rotary_dim=65), VALUE,
     r"rotary_dim must be even and from 2 to head_dim = 64, got 65"),
    ("theta", rotate(theta=0), VALUE, r"theta must be positive, got 0"),
    ("scaling", rotate(scaling=8.0), VALUE,
     r"scaling must be None or a Llama3RopeScaling, got 8\.0"),
    ("scaling factor", scaled(-8.0, 1.0, 4.0, 8192), VALUE,
     r"factor must be positive, got -8\.0"),
    ("scaling order", scaled(8.0, 4.0, 4.0, 8192), VALUE,
     r"low_freq_factor must be below high_freq_factor, got 4\.0 and 4\.0"),
    ("rope on CPUs", rotate(implementation="cpu"), MISSING,
     r"rope: no cpu kernel for float32\[6,4,64\]; use implementation=None or 'xla'"),
    ("nowhere", rotate_and_append(page_table=None, kv_lens=None, cu_q_lens=None), VALUE,
     r"rope_update_kv_pages needs either page_table .* or slot_mapping, got neither"),
    ("only a table", rotate_and_append(kv_lens=None), VALUE,
     r"kv_lens must be given together with page_table, got None"),
    ("slots too", rotate_and_append(page_table=None, slot_mapping=i32(*range(T))),
     VALUE, r"slot_mapping takes the place of page_table, kv_lens, .* got some of "),
    ("no positions", rotate_and_append(**dict.fromkeys(LISTS),
                                       slot_mapping=i32(*range(T))), VALUE,
     r"positions must be given together with slot_mapping, got None"),
    ("shards", lambda: ji.PagedKVCache.create(num_layers=1, num_pages=1, page_size=1,
        num_kv_heads=6, head_dim=H, num_shards=4), VALUE,
     r"num_shards must divide num_kv_heads or be a multiple of it, .* got 4 .* for 6"),
    # lengths that are known at the call
    ("kv_len", paged(kv_lens=i32(9, 17, 0)), VALUE,
     r"kv_lens\[1\] must be in \[0, 16\] \(pages listed \* page_size\), got 17"),
    ("negative kv_len", append(kv_lens=i32(9, 1, -1)), VALUE,
     r"kv_lens\[2\] must be in \[0, 16\] .*, got -1"),
    ("kv_len of CSR", paged(**(CSR | {"page_indptr": i32(0, 1, 4, 6)})), VALUE,
     r"kv_lens\[0\] must be in \[0, 8\] .*, got 9"),
    ("cu_q_lens start", append(cu_q_lens=i32(1, 2, 2, 6)), VALUE,
     r"cu_q_lens\[0\] must be in \[0, 0\] \(ascending from 0 to at most 6\), got 1"),
    ("cu_q_lens order", slots(cu_q_lens=i32(0, 3, 2, 6)), VALUE,
     r"cu_q_lens\[2\] must be in \[3, 6\] \(ascending from 0 to at most 6\), got 2"),
    ("cu_q_lens end", paged(cu_q_lens=i32(0, 2, 2, 7)), VALUE,
     r"cu_q_lens\[3\] must be in \[2, 6\] .*, got 7"),
    ("page_indptr", append(**(CSR | {"page_indptr": i32(0, 2, 4, 7)})), VALUE,
     r"page_indptr\[3\] must be in \[4, 6\] \(ascending .* at most 6\), got 7"),
    ("layer", paged(k_pages=STACKED, v_pages=STACKED, layer=2), VALUE,
     r"layer must be in \[0, 1\], got 2"),
    # options
    ("implementation", paged(implementation="tpu"), VALUE,
     r"implementation must be one of \(None, 'cuda', 'cpu', 'xla'\), got 'tpu'"),
    ("cuda", paged(implementation="cuda"), VALUE,
     r"ragged_paged_attention: implementation='cuda' was asked for, but the program is "
     r"being compiled for another platform; use None, 'xla' or a CUDA device"),
    ("platform", lambda: for_cuda(paged(implementation="cpu")), VALUE,
     r"ragged_paged_attention: implementation='cpu' was asked for, but the program is "
     r"being compiled for another platform; use None, 'xla' or a CPU device"),
    ("negative window", paged(local_window_size=(3, -1)), VALUE,
     r"local_window_size must be None, an int in \[0, 2\^31\) or \(left, right\) of "
     r"such, got \(3, -1\)"),
    ("float window", dense(local_window_size=2.5), VALUE,
     r"local_window_size .* got 2\.5"),
    ("window of three", plan(local_window_size=(1, 2, 3)), VALUE,
     r"local_window_size must be .* got \(1, 2, 3\)"),
    ("bool window", ragged(local_window_size=True), VALUE,
     r"local_window_size .* got True"),
    ("huge window", ragged(local_window_size=2**31), VALUE,
     r"local_window_size .* got 21"),
    ("soft cap", paged(logits_soft_cap=-1.0), VALUE,
     r"logits_soft_cap must be None or a positive number, got -1\.0"),
    ("infinite soft cap", paged(logits_soft_cap=np.inf), VALUE,
     r"logits_soft_cap must be a finite Python number, got inf"),
    ("traced soft cap", traced(ragged, logits_soft_cap=1.0), VALUE,
     r"logits_soft_cap must be a finite Python number, got JitTracer"),
    ("traced scale", traced(paged, scale=1.0), VALUE,
     r"scale must be a Python number, got a traced array; multiply the query"),
    ("scale per head", paged(scale=np.ones(3)), VALUE,
     r"scale must be a finite Python number, got array\("),
    ("traced is_causal", traced(paged, is_causal=True), VALUE,
     r"is_causal must be a Python bool, got JitTracer"),
    ("lse without softmax", paged(use_softmax=False, return_lse=True), VALUE,
     r"use_softmax=False has neither a log-sum-exp nor a sink: got return_lse=True, "
     r"attention_sink None"),
    ("sink without softmax", ragged(use_softmax=False, attention_sink=zeros(N)), VALUE,
     r"use_softmax=False has .*: got return_lse=False, attention_sink given"),
    ("variant", paged(variant=abs), VALUE,
     r"variant must be a jaxinfer.Variant or None, got <built-in function abs>"),
    ("variant on CPUs", ragged(variant=ji.variants.soft_cap(3.0), implementation="cpu"),
     MISSING, r"implementation='cpu' has no kernel for variants with functions"),
    ("sink of a sum", merge(use_softmax=False, attention_sink=zeros(N)), VALUE,
     r"use_softmax=False has no sink, got an attention_sink"),
    ("no offsets", ragged(cu_q_lens=None, cu_kv_lens=None), VALUE,
     r"cu_kv_lens must be given where cu_q_lens is None, got None"),
    ("offsets of no one", append(cu_q_lens=i32()), VALUE,
     r"cu_q_lens must have shape \[B\+1\] with B\+1 = 4, got 0 on axis 0"),
    ("neither", by_slot(slot_mapping=None), VALUE,
     r"update_kv_pages needs either page_table .* or slot_mapping, got neither"),
    ("both", append(slot_mapping=zeros(T, dtype=jnp.int32)), VALUE,
     r"update_kv_pages needs either page_table .* or slot_mapping, got both"),
    ("slots and lengths", by_slot(kv_lens=i32(1, 2, 3)), VALUE,
     r"slot_mapping takes the place of page_table, kv_lens, .* got some of these too"),
    ("table without lengths", append(kv_lens=None), VALUE,
     r"kv_lens must be given together with page_table, got None"),
    ("too many slots", slots(num_pages=2**20, page_size=2**11), VALUE,
     r"num_pages \* page_size must be below 2\^31, got 1048576 \* 2048"),
    # plans
    ("tokens", plan(num_tokens=0), VALUE,
     r"num_tokens must be .* in \[1, 2\^31\), got 0"),
    ("half a head", plan(num_q_heads=2.5), VALUE, r"num_q_heads must be .* got 2\.5"),
    ("max_kv_len", plan(max_kv_len=-1), VALUE,
     r"max_kv_len .* in \[0, 2\^31\), got -1"),
    ("traced head_dim", traced(plan, head_dim=64), VALUE,
     r"head_dim must be a Python int in \[1, 2\^31\), got JitTracer"),
    ("no tile class", lambda: plan_of(tile_classes=()), VALUE,
     r"tile_classes must be 1 to 4 TileClass, got 0"),
    ("tile classes in a list", lambda: plan_of(tile_classes=list(TILES)), VALUE,
     r"config must be hashable, got PlanConfig\(.*\[TileClass"),
    ("tile order", lambda: plan_of(tile_classes=(*TILES, ji.TileClass(8, 8, 1))), VALUE,
     r"tile classes must be ordered by rows; got PlanFacts\(.*TileClass\(rows=8"),
    ("tile size", lambda: plan_of(tile_classes=(ji.TileClass(2**17, 1, 1),)), VALUE,
     r"rows, keys and cost of a tile class must be between 1 and 65536; got .*131072"),
    ("item cost", lambda: plan_of(tile_classes=(ji.TileClass(8, 8, 1, -1),)), VALUE,
     r"item_cost of a tile class must be between 0 and 65536; got .*item_cost=-1"),
    ("large item cost", lambda: plan_of(tile_classes=(ji.TileClass(8, 8, 1, 65537),)),
     VALUE, r"item_cost of a tile class must be .* 65536; got .*item_cost=65537"),
    ("no cta", lambda: plan_of(tile_classes=TILES, num_ctas=0), VALUE,
     r"num_ctas must be between the number of head groups and 65536; got .*num_ctas=0"),
    ("out of int32", lambda: plan_of(tile_classes=TILES, min_cost=2**40), VALUE,
     r"1099511627776 out of bounds for int32; got PlanFacts"),
    ("workspace", lambda: plan(max_kv_len=2**31 - 1, config=ji.PlanConfig(
        "cpu", 4, TILES, batch_invariant=True, split_keys=1))(), VALUE,
     r"would exceed 2\^31 int32; lower max_kv_len or raise split_keys; got .*2147"),
    ("chunk cost", lambda: plan_of(tile_classes=(ji.TileClass(16, 1, 65536),),
                                   batch_invariant=True, split_keys=2**15), VALUE,
     r"split_keys times cost is too large; got .*split_keys=32768"),
    ("plan of a window", planned_for(local_window_size=(2, 0)), VALUE,
     r"ragged_paged_attention: the plan was made for local_window_size=\(2, 0\), but "
     r"this call has local_window_size=\(None, None\); make a plan of its own for it"),
    ("plan of more tokens", planned_for(num_tokens=T + 1), VALUE,
     r"the plan was made for num_tokens=7, but this call has num_tokens=6"),
    ("plan of full attention", planned_for(is_causal=False), VALUE,
     r"the plan was made for is_causal=False, but this call has is_causal=True"),
    ("plan target", lambda: with_target("sm90:132"), VALUE,
     r"JAXINFER_PLAN_TARGET must be 'cpu', .* or 'ARCH:CTAS' .*, got 'sm90:132'"),
    ("no threads", lambda: with_target("cpu:0"), VALUE, r"PLAN_TARGET .* got 'cpu:0'"),
    ("plan for a cpu", planned_for_a_cpu, VALUE,
     r"a program for CUDA must have plans for a GPU, got one for arch='cpu' with 6 CTAs"
     r": set JAXINFER_PLAN_TARGET .* JAXINFER_PLAN_TARGET=sm_90a:132, or pass "
     r"config=PlanConfig\.gpu\(\.\.\.\) to jaxinfer\.plan"),
    # transformations and the rest
    ("append under vmap", under_vmap(append, 0, key=zeros(2, T, K, H)), VALUE,
     r"update_kv_pages under vmap needs a cache per batch entry: k_pages and v_pages "
     r"must be mapped too, got in_axes \(None, None\) for them"),
    ("other axis", under_vmap(in_layer, 1, 1, k_pages=MAPPED, v_pages=MAPPED), VALUE,
     r"mapped over axis 0 \(another axis would copy the cache\), got in_axes \(1, 1\)"),
    ("one cache", under_vmap(in_layer, 0, None, k_pages=MAPPED, v_pages=STACKED), VALUE,
     r"must both be unmapped or both be mapped over axis 0 .* got in_axes \(0, None\)"),
    ("too many pages", under_vmap(in_layer, 0, 0, k_pages=HUGE, v_pages=HUGE), VALUE,
     r"the caches hold 4294967296 pages together, but page numbers are int32"),
    ("old jaxlib", old_jaxlib, ImportError,
     r"built for XLA FFI 0\.3, but the installed jaxlib has 0\.0; upgrade jaxlib"),
    ("other shape", lambda: assert_close("x", zeros(2), zeros(3)), AssertionError,
     r"x has shape \(2,\), expected \(3,\)"),
    ("other value", lambda: assert_close("x", zeros(2), zeros(2) + 1), AssertionError,
     r"x: 2 of 2 elements are off; worst at \[0\]: got 0, expected 1"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "kind", "text"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_text(call, kind, text):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert re.search(text, str(caught.value)), str(caught.value)


GOOD = [paged(), paged(**CSR), paged(k_pages=STACKED, v_pages=STACKED, layer=1)]
GOOD += [ragged(), dense(), append(), by_slot(), slots(), merge(), plan()]
GOOD += [call(cu_q_lens=None) for call in (paged, ragged, append, slots, plan)]
GOOD += [rotate(), rotate_and_append(), scaled(8.0, 1.0, 4.0, 8192)]


@pytest.mark.parametrize("call", GOOD)
def test_the_calls_that_rows_change_are_good(call):
    call()


def raise_statements() -> set[tuple[Path, int, int | None]]:
    """Every raise of the package: (file, first line, last line)."""
    return {
        (path, node.lineno, node.end_lineno)
        for path in PACKAGE.rglob("*.py")
        if not ELSEWHERE & set(path.relative_to(PACKAGE).parts)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise)
    }


def test_every_raise_has_a_row():
    reached = set()
    for _, call, kind, _ in ROWS:
        with pytest.raises(kind) as caught:
            call()
        frames = traceback.extract_tb(caught.value.__traceback__)
        reached |= {(Path(frame.filename), frame.lineno) for frame in frames}
    missed = {
        f"{path.relative_to(PACKAGE)}:{first}"
        for path, first, last in raise_statements()
        if not any((path, line) in reached for line in range(first, last + 1))
    }
    assert not missed
