# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""vmap over update_kv_pages and the ops without pages; test_vmap.py has the main op.

The oracle is a Python loop over the entries, run by the reference.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import has_loop, num_calls

import jaxinfer as ji

V, B, T, S, N, K, H = 3, 2, 6, 11, 4, 2, 64
L, P, PAGE_SIZE, MAX_PAGES = 2, 9, 4, 3
CU_Q_LENS = np.array([[0, 1, 4], [0, 0, 6], [0, 5, 5]], np.int32)
CU_KV_LENS = np.array([[0, 7, 11], [0, 2, 8], [1, 6, 6]], np.int32)
KV_LENS = np.array([[5, 12], [9, 7], [6, 1]], np.int32)
rng = np.random.default_rng(0)


# Most of the time would go into optimising programs that run once.
QUICK = {"xla_backend_optimization_level": 0}
quick_jit = functools.partial(jax.jit, compiler_options=QUICK)


def random(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def check(fn, args, in_axes, *, op, loop=False, calls=1, tolerance=1e-5):
    """vmap of the kernel against a loop over the reference; how often it is called."""
    compiled = quick_jit(jax.vmap(fn, in_axes=in_axes)).lower(*args).compile()
    reference = quick_jit(functools.partial(fn, implementation="xla"))
    want = [
        reference(
            *(
                x if axis is None else np.take(x, i, axis)
                for x, axis in zip(args, in_axes, strict=True)
            )
        )
        for i in range(V)
    ]
    want = jax.tree.map(lambda *xs: np.stack(xs), *want)
    got = compiled(*args)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance)
    assert num_calls(compiled, op) == calls
    assert has_loop(compiled) == loop


# --- update_kv_pages: exact -------------------------------------------------------

update = functools.partial(check, op="update_kv_pages", tolerance=0)
CACHES = random(V, L, P, PAGE_SIZE, K, H), random(V, L, P, PAGE_SIZE, K, 2 * H)
TOKENS = random(V, T, K, H), random(V, T, K, 2 * H)
TABLES = np.stack([rng.permutation(P)[: B * MAX_PAGES] for _ in range(V)])
TABLES = TABLES.reshape(V, B, MAX_PAGES).astype(np.int32)
TABLES[0, 1, 2], TABLES[1, 1, 1], TABLES[2, 0, 1] = -1, P, 2**31 - 1
INDPTR = np.array([[0, 2, 5], [0, 3, 5], [1, 3, 4]], np.int32)
INDICES = np.stack([rng.permutation(P)[:5] for _ in range(V)]).astype(np.int32)


def test_append_by_tables():
    def fn(k, v, key, value, layer, table, lens, cu_q_lens, **options):
        args = k, v, key, value, table, lens, cu_q_lens
        return ji.update_kv_pages(*args, layer=layer, **options)

    layers = np.array([1, 0, 7], np.int32)  # 7 is clamped to the last
    args = (*CACHES, *TOKENS, layers, TABLES, KV_LENS, CU_Q_LENS)
    update(fn, args, (0,) * 8)
    shared = (*args[:4], layers[0], TABLES[0], KV_LENS, CU_Q_LENS[0])
    update(fn, shared, (*(0,) * 4, None, None, 0, None))


def test_append_by_csr_lists_to_one_layer():
    def fn(k, v, key, value, indices, indptr, lens, cu_q_lens, **options):
        args = k, v, key, value, indices, lens, cu_q_lens
        return ji.update_kv_pages(*args, page_indptr=indptr, **options)

    caches = [x[:, 0] for x in CACHES]
    args = (*caches, *TOKENS, INDICES, INDPTR, KV_LENS, CU_Q_LENS)
    update(fn, args, (0,) * 8)


def test_append_by_slots():
    def fn(k, v, key, value, slots, **options):
        args = k, v, key, value
        return ji.update_kv_pages(
            *args, slot_mapping=slots, layer=jnp.int32(1), **options
        )

    slots = np.stack([rng.permutation(P * PAGE_SIZE)[:T] for _ in range(V)])
    slots[0, 2], slots[1, 0], slots[2, 5] = -1, P * PAGE_SIZE, -7
    slots = slots.astype(np.int32)
    update(fn, (*CACHES, *TOKENS, slots), (0,) * 5)
    update(fn, (*CACHES, *TOKENS, slots[0]), (0, 0, 0, 0, None))


def test_append_nested():
    def inner(k, v, key, value, slots, **options):
        fn = functools.partial(ji.update_kv_pages, layer=jnp.int32(0), **options)
        return jax.vmap(lambda *xs: fn(*xs[:4], slot_mapping=xs[4]))(
            k, v, key, value, slots
        )

    slots = rng.permuted(np.tile(np.arange(P * PAGE_SIZE), (V, 2, 1)), axis=2)
    slots = slots[..., :T].astype(np.int32)
    args = [np.stack([x, x[::-1]], axis=1) for x in (*CACHES, *TOKENS)]
    update(inner, (*args, slots), (0,) * 5)


def test_append_of_batched_tokens_to_one_cache_raises():
    def fn(key, value, table, lens):
        pages = CACHES[0][0, 0], CACHES[1][0, 0]
        return ji.update_kv_pages(*pages, key, value, table, lens)

    key, value = (x[:, :B] for x in TOKENS)
    with pytest.raises(
        ValueError,
        match=r"update_kv_pages under vmap needs a cache per batch entry.*"
        r"got in_axes \(None, None\).*pass the tokens as one ragged batch",
    ):
        jax.vmap(fn)(key, value, TABLES, KV_LENS)


# --- ragged_attention -------------------------------------------------------------

ragged = functools.partial(check, op="ragged_attention")
QUERY, KEY, VALUE = random(V, T, N, H), random(V, S, K, H), random(V, S, K, 2 * H)


def attend(query, key, value, cu_q_lens, cu_kv_lens, **options):
    return ji.ragged_attention(
        query, key, value, cu_q_lens, cu_kv_lens, return_lse=True, **options
    )


@pytest.mark.parametrize(
    "axes",
    [
        (0, 0, 0, 0, 0),
        (0, None, None, 0, 0),
        (None, 0, 0, None, None),
        (None, 0, None, None, None),
        (None, None, None, None, 0),
        (0, None, None, None, None),
    ],
    ids=str,
)
def test_ragged_attention(axes):
    args = QUERY, KEY, VALUE, CU_Q_LENS, CU_KV_LENS
    args = [x if a == 0 else x[0] for x, a in zip(args, axes, strict=True)]
    ragged(attend, args, axes)
    ragged(functools.partial(attend, is_causal=False), args, axes)


def test_ragged_attention_along_other_axes():
    args = QUERY, np.moveaxis(KEY, 0, 1), np.moveaxis(VALUE, 0, 3), CU_Q_LENS.T
    ragged(attend, (*args, CU_KV_LENS), (0, 1, 3, 1, 0))


def test_ragged_attention_with_plan_and_sinks_of_each_entry():
    def planned(query, cu_q_lens, cu_kv_lens, sink, **options):
        plan = ji.plan(
            cu_q_lens,
            cu_kv_lens[1:] - cu_kv_lens[:-1],
            num_tokens=T,
            max_kv_len=S,
            num_q_heads=N,
            num_kv_heads=K,
            head_dim=H,
        )
        args = query, KEY[0], VALUE[0], cu_q_lens, cu_kv_lens
        return attend(*args, plan=plan, attention_sink=sink, **options)

    args = QUERY, CU_Q_LENS, CU_KV_LENS, random(V, N)
    ragged(planned, args, (0, 0, 0, 0), loop=True)
    ragged(planned, (*args[:3], args[3][0]), (0, 0, 0, None), loop=True)


# --- dot_product_attention --------------------------------------------------------

dense = functools.partial(check, op="dot_product_attention")
DENSE = random(V, B, T, N, H), random(V, B, S, K, H), random(V, B, S, K, H)


@pytest.mark.parametrize("axes", [(0, 0, 0), (0, None, None), (None, 0, 0)], ids=str)
@pytest.mark.parametrize("is_causal", [False, True])
def test_dot_product_attention(axes, is_causal):
    fn = functools.partial(ji.dot_product_attention, is_causal=is_causal)
    args = [x if a == 0 else x[0] for x, a in zip(DENSE, axes, strict=True)]
    dense(fn, args, axes)


def test_dot_product_attention_without_batch_axis():
    dense(ji.dot_product_attention, [x[:, 0] for x in DENSE], (0, 0, 0))
    moved = [np.moveaxis(x[:, 0], 0, 1) for x in DENSE]
    dense(ji.dot_product_attention, moved, (1, 1, 1))


@pytest.mark.parametrize("lead", [(1, 1), (1, N), (B, 1), (B, N)], ids=str)
@pytest.mark.parametrize("is_mapped", [False, True], ids=["shared", "mapped"])
def test_dot_product_attention_with_bias_and_mask(lead, is_mapped):
    bias = random(V, *lead, T, S)
    mask = rng.random((V, *lead, T, S)) < 0.6
    args, axes = (*DENSE, bias, mask), (0,) * 5
    if not is_mapped:
        args, axes = (*DENSE, bias[0], mask[0]), (0, 0, 0, None, None)
    dense(ji.dot_product_attention, args, axes)


def test_dot_product_attention_with_lengths():
    def fn(q, k, v, q_lens, kv_lens, **options):
        return ji.dot_product_attention(
            q,
            k,
            v,
            query_seq_lengths=q_lens,
            key_value_seq_lengths=kv_lens,
            return_residual=True,
            **options,
        )

    q_lens = np.array([[6, 2], [0, 3], [1, 6]], np.int32)
    kv_lens = np.array([[11, 2], [5, 1], [7, 11]], np.int32)
    dense(fn, (*DENSE, q_lens, kv_lens), (0,) * 5)
    dense(fn, (*DENSE, q_lens[0], kv_lens), (0, 0, 0, None, 0))


# --- merge_partials and plan ------------------------------------------------------


def test_merge_partials():
    merge = functools.partial(check, op="merge_partials")
    outs, lses, sinks = random(V, 3, T, N, H), random(V, 3, T, N), random(V, N)
    lses[rng.random(lses.shape) < 0.3] = -np.inf
    merge(ji.merge_partials, (outs, lses), (0, 0))
    merge(ji.merge_partials, (np.moveaxis(outs, 0, 2), lses[0]), (2, None))

    def with_sink(outs, lses, sink, **options):
        return ji.merge_partials(outs, lses, attention_sink=sink, **options)

    merge(with_sink, (outs, lses, sinks[0]), (0, 0, None))
    merge(with_sink, (outs, lses, sinks), (0, 0, 0), loop=True)


def test_plan():
    facts = {
        "num_tokens": T,
        "max_kv_len": S,
        "num_q_heads": N,
        "num_kv_heads": K,
        "head_dim": H,
    }
    fn = functools.partial(ji.plan, **facts)
    for axes in ((0, 0), (None, 0), (0, None)):
        args = [
            x if a == 0 else x[0]
            for x, a in zip((CU_Q_LENS, KV_LENS), axes, strict=True)
        ]
        got = jax.jit(jax.vmap(fn, in_axes=axes))(*args)
        assert got.facts == fn(CU_Q_LENS[0], KV_LENS[0]).facts
        for i in range(V):
            of_entry = [x[i] if a == 0 else x for x, a in zip(args, axes, strict=True)]
            np.testing.assert_array_equal(got.buffer[i], fn(*of_entry).buffer)
