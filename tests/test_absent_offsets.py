# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""cu_q_lens=None, one token per sequence: bit for bit what arange(B + 1) gives.

An operand without elements says so, for which all code has a way of its own.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_nvrtc import FakeNvrtc

import jaxinfer as ji
from jaxinfer import jit
from jaxinfer.flax import RaggedBatch
from jaxinfer.ops.dot_product_attention import dot_product_attention_op

B, N, K, H, HV, L, P, PAGE_SIZE, MAX_PAGES, S = 5, 6, 2, 64, 96, 2, 24, 4, 4, 40
OFFSETS = jnp.arange(B + 1, dtype=jnp.int32)
# Padding rows, or sequences without a row: offsets are clamped to T.
TOKENS = {"as_many": B, "padding": B + 3, "too_few": B - 2}
IMPLEMENTATIONS = ("cpu", "xla")
# Several chunks a sequence, so that partial results are merged.
SPLIT = ji.PlanConfig("cpu", 9, (ji.TileClass(16, 4, 1),), min_keys_per_row=1)
# Most of the time would go into optimising programs that run once.
QUICK = {"xla_backend_optimization_level": 0}
quick_jit = functools.partial(jax.jit, compiler_options=QUICK)
rng = np.random.default_rng(0)


def random(*shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def arrays(num_tokens):
    """What the ops are called with, by name."""
    table = rng.permutation(P)[: B * MAX_PAGES].reshape(B, MAX_PAGES)
    table[1, 0] = -1
    return {
        "query": random(num_tokens, N, H),
        "key": random(num_tokens, K, H),
        "value": random(num_tokens, K, HV),
        "k_pages": random(P, PAGE_SIZE, K, H),
        "v_pages": random(P, PAGE_SIZE, K, HV),
        "keys": random(S, K, H),
        "values": random(S, K, HV),
        "table": jnp.asarray(table, jnp.int32),
        "kv_lens": jnp.array([9, 3, 0, 16, 20], jnp.int32),
        "cu_kv_lens": jnp.array([0, 9, 12, 12, 33, S], jnp.int32),
    }


def static(x):
    size = MAX_PAGES * PAGE_SIZE
    facts = {"num_tokens": len(x["query"]), "max_kv_len": size, "head_dim": H}
    return facts | {"num_q_heads": N, "num_kv_heads": K}


def paged(x, cu_q_lens, **options):
    pages = x["query"], x["k_pages"], x["v_pages"], x["table"], x["kv_lens"]
    options = {"return_lse": True} | options
    return ji.ragged_paged_attention(*pages, cu_q_lens, **options)


def planned(x, cu_q_lens, **options):
    plan = ji.plan(cu_q_lens, x["kv_lens"], **static(x), config=SPLIT)
    return paged(x, cu_q_lens, plan=plan, **options)


def csr(x, cu_q_lens, **options):
    indptr = jnp.arange(B + 1, dtype=jnp.int32) * MAX_PAGES
    x = x | {"table": x["table"].ravel()}
    return paged(x, cu_q_lens, page_indptr=indptr, is_causal=False, **options)


def ragged(x, cu_q_lens, **options):
    return ji.ragged_attention(
        *(x["query"], x["keys"], x["values"], cu_q_lens, x["cu_kv_lens"]),
        **{"return_lse": True, "local_window_size": (4, 0)} | options,
    )


def append(x, cu_q_lens, **options):
    pages = x["k_pages"], x["v_pages"], x["key"], x["value"]
    return ji.update_kv_pages(*pages, x["table"], x["kv_lens"], cu_q_lens, **options)


def rotate_and_append(x, cu_q_lens, **options):
    pages = x["query"], x["k_pages"], x["v_pages"], x["key"], x["value"]
    lists = x["table"], x["kv_lens"], cu_q_lens
    return ji.rope_update_kv_pages(*pages, *lists, **options)


OPS = {f.__name__: f for f in (paged, planned, csr, ragged, append, rotate_and_append)}
every_op = pytest.mark.parametrize("op", OPS)
every_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
every_size = pytest.mark.parametrize("num_tokens", TOKENS.values(), ids=TOKENS.keys())


def assert_same_bits(function, *args):
    """function(*args, None) against function(*args, arange(B + 1)); returns it."""
    got, want = function(*args, None), function(*args, OFFSETS)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.dtype == w.dtype
        np.testing.assert_array_equal(np.asarray(g), np.asarray(w))
    return got


@every_op
@every_implementation
@every_size
def test_under_jit_and_eagerly(op, implementation, num_tokens):
    call = functools.partial(OPS[op], implementation=implementation)
    x = arrays(num_tokens)
    results = assert_same_bits(quick_jit(call), x)
    assert any(np.any(np.isfinite(r) & (r != 0)) for r in map(np.asarray, results))
    if op not in ("csr", "planned"):
        assert_same_bits(call, x)


@every_op
@every_implementation
@every_size
def test_under_vmap(op, implementation, num_tokens):
    call = functools.partial(OPS[op], implementation=implementation)
    entries = [arrays(num_tokens) for _ in range(2)]
    x = {name: jnp.stack([entry[name] for entry in entries]) for name in entries[0]}
    x["kv_lens"] = x["kv_lens"].at[1].set(jnp.array([1, 8, 16, 5, 2]))
    assert_same_bits(quick_jit(lambda x, cu: jax.vmap(lambda x: call(x, cu))(x)), x)


@every_op
@every_size
def test_under_grad(op, num_tokens):
    def loss(floats, others, cu_q_lens):
        results = OPS[op](floats | others, cu_q_lens)
        finite = [jnp.where(jnp.isfinite(r), r, 0) for r in results]
        return sum(jnp.sum(jnp.sin(3 * r)) for r in finite)

    x = arrays(num_tokens)
    floats = {name: a for name, a in x.items() if a.dtype == jnp.float32}
    others = {name: a for name, a in x.items() if name not in floats}
    got = assert_same_bits(quick_jit(jax.grad(loss)), floats, others)
    assert any(np.any(g) for g in map(np.asarray, got.values()))


@every_implementation
@every_size
def test_in_a_scan_of_decode_steps(implementation, num_tokens):
    def steps(x, cu_q_lens):
        def step(carry, _):
            y = x | carry
            named = {"implementation": implementation}
            query, k_pages, v_pages = rotate_and_append(y, cu_q_lens, **named)
            pages = {"k_pages": k_pages, "v_pages": v_pages}
            out, lse = planned(y | pages | {"query": query}, cu_q_lens, **named)
            query = y["query"].at[..., : out.shape[-1]].add(out[..., :H])
            lens = {"kv_lens": y["kv_lens"] + 1, "query": query}
            return carry | pages | lens, lse

        names = "query", "k_pages", "v_pages", "kv_lens"
        return jax.lax.scan(step, {name: x[name] for name in names}, length=4)

    assert_same_bits(quick_jit(steps), arrays(num_tokens))


@every_size
def test_what_a_step_computes_once(num_tokens):
    """Slots, positions and plans, on the host and in the graph."""
    x = arrays(num_tokens)
    lists, sizes = (x["table"], x["kv_lens"]), {"num_pages": P, "page_size": PAGE_SIZE}
    is_active = jnp.array([True, False, True, True, True])
    options = {"num_tokens": num_tokens, "is_active": is_active}
    slots = functools.partial(ji.token_slots, **options, **sizes)
    assert_same_bits(quick_jit(lambda cu: slots(*lists, cu)))
    plan = functools.partial(ji.plan, **static(x), config=SPLIT)
    in_graph = assert_same_bits(quick_jit(lambda cu: plan(cu, x["kv_lens"])))
    on_host = plan(None, np.asarray(x["kv_lens"]))
    assert isinstance(on_host.buffer, np.ndarray)
    np.testing.assert_array_equal(on_host.buffer, in_graph.buffer)
    mapped = quick_jit(lambda lens, cu: jax.vmap(lambda lens: plan(cu, lens))(lens))
    assert_same_bits(mapped, jnp.stack([x["kv_lens"], x["kv_lens"] + 2]))

    cache = ji.PagedKVCache(x["k_pages"][None], x["k_pages"][None])
    options["num_q_heads"] = N
    create = quick_jit(lambda cu: RaggedBatch.create(cache, *lists, cu, **options))
    got, want = create(None), create(OFFSETS)
    assert got.cu_q_lens is None
    for name in ("positions", "slots", "plan"):
        g, w = (jax.tree.leaves(getattr(batch, name)) for batch in (got, want))
        np.testing.assert_array_equal(g, w)
    again, want = got.with_window(3), want.with_window(3)
    np.testing.assert_array_equal(again.plan.buffer, want.plan.buffer)


@every_implementation
def test_dense_batches_of_one_query_each(implementation):
    """dot_product_attention passes no offsets there; its primitive takes both."""
    query, key = random(B, 1, N, H), random(B, 7, K, H)
    mask = jnp.asarray(rng.random((B, 1, 1, 7)) < 0.7)
    call = functools.partial(ji.dot_product_attention, query, key, key, mask=mask)
    (traced,) = [
        eqn
        for eqn in jax.make_jaxpr(call)().eqns
        if eqn.primitive is dot_product_attention_op
    ]
    assert [v.aval.shape for v in traced.invars][7] == (0,)
    starts = jnp.arange(B, dtype=jnp.int32) * 7
    lens = jnp.array([7, 3, 0, 1, 5], jnp.int32)
    params = traced.params | {"implementation": implementation}

    def bound(bias, cu_q_lens):
        if cu_q_lens is None:
            cu_q_lens = jnp.zeros(0, jnp.int32)
        operands = query, key, key, bias, mask, starts, lens, cu_q_lens
        return dot_product_attention_op.bind(*operands, **params)

    assert_same_bits(quick_jit(bound), random(B, N, 1, 7))
    mapped = quick_jit(lambda bias, cu: jax.vmap(lambda bias: bound(bias, cu))(bias))
    assert_same_bits(mapped, random(3, B, N, 1, 7))


@every_size
def test_a_program_for_cuda_computes_nothing_but_the_ops(
    num_tokens, monkeypatch, tmp_path
):
    """No iota, and no constant that has to be filled: each would be a kernel."""
    monkeypatch.setenv("JAXINFER_PLAN_TARGET", "sm_90a:132")
    disk, registered = jit.DiskCache(tmp_path), {}
    store = jit.KernelStore(
        disk=disk, nvrtc=FakeNvrtc(), register=registered.__setitem__
    )
    monkeypatch.setattr(jit, "DEFAULT", store)
    num_layers = 3

    def decode(x, cu_q_lens):
        plan = ji.plan(cu_q_lens, x["kv_lens"], **static(x))
        for _ in range(num_layers):
            query, k_pages, v_pages = rotate_and_append(x, cu_q_lens)
            x = x | {"query": query, "k_pages": k_pages, "v_pages": v_pages}
            x["k_pages"], x["v_pages"] = append(x, cu_q_lens)
            pages = x["k_pages"], x["v_pages"], x["key"], x["value"]
            x["k_pages"], x["v_pages"] = ji.update_kv_pages(*pages, slot_mapping=slots)
            one, other = (paged(x, cu_q_lens, plan=p)[0] for p in (plan, None))
            x["query"] = (one + other)[..., :H]
        return x

    def text_of(function, *args):
        lowered = jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",))
        return lowered.as_text()

    slots = jnp.arange(num_tokens, dtype=jnp.int32)
    x = {
        name: a.astype(jnp.bfloat16) if a.dtype == jnp.float32 else a
        for name, a in arrays(num_tokens).items()
    }
    text = text_of(decode, x, None)
    assert text.count("custom_call @jaxinfer") == 1 + 6 * num_layers
    assert "iota" not in text
    filled = re.findall(r"broadcast_in_dim .*-> tensor<(.*)x\w+>", text)
    assert filled
    assert all("0" in dims.split("x") for dims in filled)
    assert "iota" not in text_of(ragged, x, None)
    of_users = text_of(lambda x: decode(x, jnp.arange(B + 1, dtype=jnp.int32)), x)
    assert of_users.count("iota") == 1
