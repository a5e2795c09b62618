# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""vmap over the paged cache: what folds into one call, what runs in turn, what raises.

That a cache of each entry stays in place is in test_in_place.py.

The oracle is a Python loop over the entries, run by the reference.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import has_loop, num_calls

import jaxinfer as ji

V, L, P, PAGE_SIZE, B, MAX_PAGES = 3, 2, 31, 4, 3, 5
T, N, K, H, HV = 8, 4, 2, 64, 96
# Rows past the last offset are padding; each entry has another number of them.
CU_Q_LENS = np.array([[0, 1, 4, 6], [0, 3, 3, 7], [0, 0, 0, 2]], np.int32)
KV_LENS = np.array([[5, 20, 3], [9, 0, 17], [1, 2, 2]], np.int32)
POISON_PAGE = 0
rng = np.random.default_rng(0)


# Most of the time would go into optimising programs that run once.
QUICK = {"xla_backend_optimization_level": 0}
quick_jit = functools.partial(jax.jit, compiler_options=QUICK)


def random(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def pages(*lead: int, dim: int = H) -> np.ndarray:
    made = random(*lead, P, PAGE_SIZE, K, dim)
    made[..., POISON_PAGE, :, :, :] = np.nan
    return made


def page_tables() -> np.ndarray:
    """i32[V, B, MAX_PAGES]; what no key needs is poison or outside the cache."""
    tables = np.stack([rng.permutation(np.arange(1, P))[: B * MAX_PAGES]] * V)
    tables = rng.permuted(tables, axis=1).reshape(V, B, MAX_PAGES).astype(np.int32)
    needed = np.arange(MAX_PAGES) < -(-KV_LENS[..., None] // PAGE_SIZE)
    return np.where(needed, tables, rng.choice([POISON_PAGE, -1, P], tables.shape))


QUERY, K_PAGES, V_PAGES = random(V, T, N, H), pages(), pages(dim=HV)
STACKED = pages(L), pages(L, dim=HV)
CACHES = pages(V, L), pages(V, L, dim=HV)
TABLES = page_tables().astype(np.int32)
INDPTR = np.concatenate(
    [np.zeros((V, 1)), np.cumsum(-(-KV_LENS // PAGE_SIZE), axis=1)], axis=1
).astype(np.int32)
INDICES = rng.integers(1, P, (V, int(INDPTR.max()) + 2)).astype(np.int32)
SINKS, SCALES = random(V, N), np.abs(random(V, K))
LAYERS = np.array([1, 0, 1], np.int32)
FACTS = {
    "num_tokens": T,
    "max_kv_len": MAX_PAGES * PAGE_SIZE,
    "num_q_heads": N,
    "num_kv_heads": K,
    "head_dim": H,
}


@functools.cache
def reference_of(fn):
    return quick_jit(functools.partial(fn, implementation="xla"))


def check(fn, args, in_axes, *, loop=False, op="ragged_paged_attention"):
    """vmap of the kernel against a loop over the reference; how often it is called."""
    compiled = quick_jit(jax.vmap(fn, in_axes=in_axes)).lower(*args).compile()
    want = [
        reference_of(fn)(
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
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5)
    assert num_calls(compiled, op) == 1
    assert has_loop(compiled) == loop


def attend(query, k_pages, v_pages, table, kv_lens, cu_q_lens, **options):
    return ji.ragged_paged_attention(
        query, k_pages, v_pages, table, kv_lens, cu_q_lens, return_lse=True, **options
    )


ALL = (QUERY, K_PAGES, V_PAGES, TABLES, KV_LENS, CU_Q_LENS)
AXES = {
    "all": (0, None, None, 0, 0, 0),
    "query": (0, None, None, None, None, None),
    "table": (None, None, None, 0, None, None),
    "kv_lens": (None, None, None, None, 0, None),
    "cu_q_lens": (None, None, None, None, None, 0),
    "lengths": (None, None, None, None, 0, 0),
}


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES.keys())
def test_one_cache_is_one_larger_batch(axes):
    # What is not mapped is that of entry 0, with a table that is long enough for all.
    tables = np.maximum(TABLES % P, 1) if axes[3] is None else TABLES
    args = QUERY, K_PAGES, V_PAGES, tables, KV_LENS, CU_Q_LENS
    args = [
        x[0] if axis is None and i not in (1, 2) else x
        for i, (x, axis) in enumerate(zip(args, axes, strict=True))
    ]
    check(attend, args, axes)


def test_axes_other_than_the_first():
    args = (
        np.moveaxis(QUERY, 0, 2),
        K_PAGES,
        V_PAGES,
        np.moveaxis(TABLES, 0, 1),
        KV_LENS.T,
        CU_Q_LENS.T,
    )
    check(attend, args, (2, None, None, 1, 1, 1))


@pytest.mark.parametrize(
    "options",
    [
        {"is_causal": False},
        {"local_window_size": (3, 1), "is_causal": False},
        {"logits_soft_cap": 2.0, "attention_sink": SINKS[0], "k_scale": SCALES[0]},
    ],
    ids=["full", "window", "cap_sink_scale"],
)
def test_options_and_shared_operands_fold(options):
    check(functools.partial(attend, **options), ALL, AXES["all"])


def test_lists_of_pages_in_csr_form():
    def fn(query, k_pages, v_pages, indices, indptr, kv_lens, cu_q_lens, **options):
        return attend(
            query, k_pages, v_pages, indices, kv_lens, cu_q_lens,
            page_indptr=indptr, **options,
        )  # fmt: skip

    args = (QUERY, K_PAGES, V_PAGES, INDICES, INDPTR, KV_LENS, CU_Q_LENS)
    check(fn, args, (0, None, None, 0, 0, 0, 0))
    shared = (QUERY, K_PAGES, V_PAGES, INDICES[1], INDPTR, KV_LENS, CU_Q_LENS)
    check(fn, shared, (0, None, None, None, 0, 0, 0))


def test_layer():
    def fn(layer, *args, **options):
        return attend(*args, layer=layer, **options)

    args = (LAYERS, QUERY, *STACKED, TABLES, KV_LENS, CU_Q_LENS)
    check(fn, args, (0, *AXES["all"]))
    check(fn, (np.int32(1), *args[1:]), (None, *AXES["all"]))


def test_a_shared_plan_is_made_again_for_the_larger_batch():
    plan = ji.plan(CU_Q_LENS[1], KV_LENS[1], **FACTS)

    def fn(*args, **options):
        return attend(*args, plan=plan, **options)

    args = (QUERY, K_PAGES, V_PAGES, TABLES[1], KV_LENS[1], CU_Q_LENS[1])
    check(fn, args, AXES["query"])


def test_a_plan_of_each_entry_runs_in_turn():
    def fn(*args, **options):
        return attend(*args, plan=ji.plan(args[5], args[4], **FACTS), **options)

    check(fn, ALL, AXES["all"], loop=True)


def test_scales_and_sinks_of_each_entry_run_in_turn():
    def fn(k_scale, v_scale, sink, *args, **options):
        scales = {"k_scale": k_scale, "v_scale": v_scale, "attention_sink": sink}
        return attend(*args, **scales, **options)

    values = (SCALES, SCALES[::-1], SINKS)
    for i in range(3):
        axes = tuple(0 if i == j else None for j in range(3))
        args = tuple(x if i == j else x[0] for j, x in enumerate(values))
        check(fn, (*args, *ALL), (*axes, *AXES["all"]), loop=True)


def test_a_cache_of_each_entry_is_one_larger_cache():
    def fn(*args, **options):
        return attend(*args, layer=jnp.int32(1), **options)

    args = (QUERY, *CACHES, TABLES, KV_LENS, CU_Q_LENS)
    check(fn, args, (0, 0, 0, 0, 0, 0))
    # Of one layer, and the rest shared.
    args = (QUERY[1], CACHES[0][:, 0], CACHES[1][:, 0], TABLES[1], KV_LENS[1])
    check(attend, (*args, CU_Q_LENS[1]), (None, 0, 0, None, None, None))


@pytest.mark.parametrize("axes", [(1, 1), (0, None), (None, 0), (0, 1)])
def test_caches_along_other_axes_raise(axes):
    k, v = (
        x[0] if axis is None else np.moveaxis(x, 0, axis)
        for x, axis in zip(CACHES, axes, strict=True)
    )

    def fn(q, k, v):
        args = q, k, v, TABLES[0], KV_LENS[0], CU_Q_LENS[0]
        return attend(*args, layer=jnp.int32(0))

    with pytest.raises(
        ValueError,
        match=r"k_pages and v_pages must both be unmapped or both be mapped over "
        rf"axis 0 \(another axis would copy the cache\), got in_axes \({axes[0]}, ",
    ):
        jax.vmap(fn, in_axes=(0, *axes))(QUERY, k, v)


def test_nested():
    def fn(*args, **options):
        return jax.vmap(functools.partial(attend, **options), AXES["all"])(*args)

    nested = [np.stack([x, x[::-1], x]) for x in (QUERY, TABLES, KV_LENS, CU_Q_LENS)]
    check(fn, (nested[0], K_PAGES, V_PAGES, *nested[1:]), AXES["all"])


def test_in_a_scan_and_around_one():
    def steps(query, table, kv_lens, cu_q_lens, implementation=None):
        def step(lens, _):
            args = query, K_PAGES, V_PAGES, table, lens, cu_q_lens
            out, lse = attend(*args, implementation=implementation)
            return jnp.maximum(lens - 1, 0), (out, lse)

        return jax.lax.scan(step, kv_lens, length=3)[1]

    check(steps, (QUERY, TABLES, KV_LENS, CU_Q_LENS), (0, 0, 0, 0), loop=True)

    @jax.jit
    def scan_of_vmap(lens):
        def step(lens, _):
            args = QUERY, K_PAGES, V_PAGES, TABLES, lens, CU_Q_LENS
            return jnp.maximum(lens - 1, 0), jax.vmap(attend, AXES["all"])(*args)

        return jax.lax.scan(step, lens, length=3)[1]

    out, lse = scan_of_vmap(KV_LENS)
    want = jax.jit(jax.vmap(steps))(QUERY, TABLES, KV_LENS, CU_Q_LENS)
    np.testing.assert_array_equal(jnp.swapaxes(out, 0, 1), want[0])
    np.testing.assert_array_equal(jnp.swapaxes(lse, 0, 1), want[1])


def test_gradient_of_vmap_and_vmap_of_gradient():
    def loss(query, table, kv_lens, cu_q_lens, implementation=None):
        args = query, K_PAGES, V_PAGES, table, kv_lens, cu_q_lens
        out, lse = attend(*args, implementation=implementation)
        return jnp.sum(out**2) + jnp.sum(jnp.where(lse > -jnp.inf, lse, 0.0))

    args = (QUERY, TABLES, KV_LENS, CU_Q_LENS)
    reference = quick_jit(jax.grad(functools.partial(loss, implementation="xla")))
    want = np.stack([reference(*(x[i] for x in args)) for i in range(V)])
    of_vmap = quick_jit(jax.grad(lambda q: jax.vmap(loss)(q, *args[1:]).sum()))(QUERY)
    np.testing.assert_allclose(of_vmap, want, rtol=1e-4, atol=1e-5)
    vmapped = quick_jit(jax.vmap(jax.grad(loss)))(*args)
    np.testing.assert_allclose(vmapped, want, rtol=1e-4, atol=1e-5)
