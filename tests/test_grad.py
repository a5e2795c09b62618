# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Derivatives: those of the reference, taken at the kernel's values.

Two oracles: jax.grad of implementation="xla" (or of jax.nn), and finite differences of
the kernel itself.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jaxinfer as ji

T, N, K, H, HV, L, P, PAGE_SIZE = 6, 4, 2, 64, 96, 2, 7, 4
CU_Q_LENS = np.array([0, 1, 1, 5], np.int32)  # row 5 is padding
KV_LENS = np.array([9, 3, 6], np.int32)
TABLE = np.array([[3, 1, 6], [2, -1, P], [4, 5, 0]], np.int32)
POISON_PAGE = 0
rng = np.random.default_rng(0)

# Most of the time would go into optimising programs that run once.
QUICK = {"xla_backend_optimization_level": 0}
quick_jit = functools.partial(jax.jit, compiler_options=QUICK)


def random(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def pages(*lead: int, dim: int) -> np.ndarray:
    made = random(*lead, P, PAGE_SIZE, K, dim)
    made[..., POISON_PAGE, :, :, :] = np.nan
    return made


PAGED = {
    "query": random(T, N, H),
    "k_pages": pages(dim=H),
    "v_pages": pages(dim=HV),
    "k_scale": np.array([0.5, 1.5], np.float32),
    "v_scale": np.array([2.0, 0.7], np.float32),
    "attention_sink": random(N),
}


def total(out, lse):
    """A loss that weighs every element differently; lse is -inf in empty rows."""
    lse = jnp.where(lse > -jnp.inf, lse, 0.0)
    return jnp.sum(jnp.sin(3 * out)) + jnp.sum(jnp.cos(lse))


def paged_loss(values, **options):
    if not options.get("use_softmax", True):
        values = {k: v for k, v in values.items() if k != "attention_sink"}
    lengths = {"page_table": TABLE, "kv_lens": KV_LENS, "cu_q_lens": CU_Q_LENS}
    options = {"return_lse": options.get("use_softmax", True)} | options
    got = ji.ragged_paged_attention(**values, **(lengths | options))
    return total(*got) if options["return_lse"] else jnp.sum(jnp.sin(got))


def assert_close(got, want, tolerance=1e-5):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.isfinite(w).all()
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance)


def nonzero(gradients) -> set[str]:
    return {name for name, x in gradients.items() if np.any(x)}


PAGED_OPTIONS = {
    "causal": {},
    "full": {"is_causal": False},
    "window": {"is_causal": False, "local_window_size": (2, 1)},
    "soft_cap": {"logits_soft_cap": 2.0},
    "no_softmax": {"use_softmax": False},
    "csr": {
        "page_table": np.array([3, 1, 6, 2, 4, 5], np.int32),
        "page_indptr": np.array([0, 3, 4, 6], np.int32),
    },
}


@pytest.mark.parametrize("options", PAGED_OPTIONS.values(), ids=PAGED_OPTIONS.keys())
def test_paged_attention(options):
    loss = functools.partial(paged_loss, **options)
    want = quick_jit(jax.grad(functools.partial(loss, implementation="xla")))(PAGED)
    got = quick_jit(jax.grad(loss))(PAGED)
    assert_close(got, want)
    without = set() if options.get("use_softmax", True) else {"attention_sink"}
    assert nonzero(got) == set(PAGED) - without
    assert not np.any(got["k_pages"][POISON_PAGE])
    assert not np.any(got["query"][T - 1])


def test_eager_equals_jit_and_a_plan_changes_nothing():
    facts = {"num_q_heads": N, "num_kv_heads": K, "head_dim": H, "max_kv_len": 12}
    plan = ji.plan(CU_Q_LENS, KV_LENS, num_tokens=T, **facts)
    got = jax.grad(functools.partial(paged_loss, plan=plan))(PAGED)
    assert_close(got, quick_jit(jax.grad(paged_loss))(PAGED), 1e-6)


def test_paged_attention_against_finite_differences():
    directions = {name: random(*x.shape) for name, x in PAGED.items()}

    @jax.jit
    def along(steps):  # the kernel's own values, along one random direction each
        moved = {n: x + steps[n] * directions[n] for n, x in PAGED.items()}
        return paged_loss(moved)

    steps = dict.fromkeys(PAGED, 0.0)
    check_grads(along, (steps,), order=1, modes=("fwd", "rev"), eps=3e-3, rtol=2e-2)


def test_forward_mode_and_second_order():
    tangents = {name: random(*x.shape) for name, x in PAGED.items()}
    reference = functools.partial(paged_loss, implementation="xla")
    want = quick_jit(functools.partial(jax.jvp, reference))((PAGED,), (tangents,))
    got = quick_jit(functools.partial(jax.jvp, paged_loss))((PAGED,), (tangents,))
    assert_close(got, want, 1e-4)

    def curvature(loss):
        def slope(query):
            return jax.jvp(loss, (PAGED | {"query": query},), (tangents,))[1]

        return quick_jit(jax.grad(slope))(PAGED["query"])

    assert_close(curvature(paged_loss), curvature(reference), 1e-3)


def test_a_layer_of_a_stacked_cache():
    stacked = pages(L, dim=H), pages(L, dim=HV)

    def loss(stacked, **options):
        values = PAGED | {"k_pages": stacked[0], "v_pages": stacked[1]}
        return paged_loss(values, layer=jnp.int32(1), **options)

    got = quick_jit(jax.grad(loss))(stacked)
    want = quick_jit(jax.grad(functools.partial(loss, implementation="xla")))(stacked)
    assert_close(got, want)
    for x in got:
        assert np.any(x[1])
        assert not np.any(x[0])


def test_nothing_visible_has_gradient_zero():
    loss = functools.partial(paged_loss, kv_lens=np.zeros(3, np.int32))
    assert not nonzero(quick_jit(jax.grad(loss))(PAGED))


def test_gradients_have_the_dtype_of_the_values():
    half = {n: x.astype(jnp.bfloat16) for n, x in PAGED.items() if "page" in n}
    values = PAGED | half | {"query": PAGED["query"].astype(np.float16)}
    got = quick_jit(jax.grad(paged_loss))(values)
    assert {n: x.dtype for n, x in got.items()} == {
        n: x.dtype for n, x in values.items()
    }


def test_ragged_attention():
    values = random(T, N, H), random(11, K, H), random(11, K, HV)
    cu_kv_lens = np.array([0, 4, 4, 10], np.int32)

    def loss(values, **options):
        got = ji.ragged_attention(
            *values, CU_Q_LENS, cu_kv_lens, return_lse=True, **options
        )
        return total(*got)

    for options in (
        {},
        {"is_causal": False, "attention_sink": PAGED["attention_sink"]},
    ):
        got = quick_jit(jax.grad(functools.partial(loss, **options)))(values)
        reference = functools.partial(loss, implementation="xla", **options)
        assert_close(got, quick_jit(jax.grad(reference))(values))
        assert not np.any(got[1][10:])


DENSE = random(2, T, N, H), random(2, 9, K, H), random(2, 9, K, H)
MASK = rng.random((2, 1, T, 9)) < 0.5
MASK[1, 0, 2] = False  # jax.nn averages all values there
DENSE_OPTIONS = {
    "causal": {"is_causal": True},
    "mask": {"mask": MASK},
    "window": {"local_window_size": (2, 1)},
    "lengths": {
        "query_seq_lengths": np.array([4, 6], np.int32),
        "key_value_seq_lengths": np.array([9, 3], np.int32),
    },
}
BIASES = {"bias1": (1, 1, T, 9), "biasN": (1, N, 1, 9), "biasBN": (2, N, T, 9)}


@pytest.mark.parametrize("name", [*DENSE_OPTIONS, *BIASES])
def test_dot_product_attention_against_jax_nn(name):
    options = DENSE_OPTIONS.get(name, {})
    values = (*DENSE, random(*BIASES[name])) if name in BIASES else DENSE

    def gradient(attend):
        def loss(values):
            out, lse = attend(*values, return_residual=True, **options)
            return jnp.sum(jnp.sin(3 * out)) + jnp.sum(lse)

        return quick_jit(jax.grad(loss))(values)

    want = gradient(jax.nn.dot_product_attention)
    assert_close(gradient(ji.dot_product_attention), want, 2e-5)


def test_dot_product_attention_against_finite_differences():
    bias = random(2, N, T, 9)

    def fn(values):
        return jnp.sum(jnp.sin(3 * ji.dot_product_attention(*values, mask=MASK)))

    values, direction = (*DENSE, bias), [random(*x.shape) for x in (*DENSE, bias)]

    @jax.jit
    def along(step):
        return fn([x + step * d for x, d in zip(values, direction, strict=True)])

    check_grads(along, (0.0,), order=1, modes=("fwd", "rev"), eps=2e-3, rtol=2e-2)


@pytest.mark.parametrize("use_softmax", [True, False])
def test_merge_partials(use_softmax):
    outs, lses = random(3, T, N, H), random(3, T, N)
    lses[1, :3], lses[:, 5] = -np.inf, -np.inf
    outs[1, :3] = np.nan if use_softmax else 0
    values = {"outs": outs, "lses": lses, "attention_sink": random(N)}
    if not use_softmax:
        del values["attention_sink"]

    def loss(values, **options):
        return total(*ji.merge_partials(**values, use_softmax=use_softmax, **options))

    want = quick_jit(jax.grad(functools.partial(loss, implementation="xla")))(values)
    assert_close(quick_jit(jax.grad(loss))(values), want)
    direction = random(*outs.shape)
    along = jax.jit(lambda step: loss(values | {"outs": outs + step * direction}))
    check_grads(along, (0.0,), order=1, modes=("fwd", "rev"), eps=2e-3, rtol=2e-2)


def test_update_kv_pages():
    key, value = random(T, K, H), random(T, K, HV)
    values = random(P, PAGE_SIZE, K, H), random(P, PAGE_SIZE, K, HV), key, value
    by_table = {"page_table": TABLE, "kv_lens": KV_LENS, "cu_q_lens": CU_Q_LENS}
    by_slot = {"slot_mapping": np.array([5, -1, 0, P * PAGE_SIZE, 27, 9], np.int32)}
    for where in (by_table, by_slot):

        def loss(values, where=where, **options):
            return sum(
                jnp.sum(jnp.sin(x))
                for x in ji.update_kv_pages(*values, **where, **options)
            )

        got = quick_jit(jax.grad(loss))(values)
        reference = functools.partial(loss, implementation="xla")
        assert_close(got, quick_jit(jax.grad(reference))(values))
        # Of pages and tokens alike: what was overwritten or dropped has no influence.
        overwritten = P * PAGE_SIZE - np.count_nonzero(np.abs(got[0]).sum((2, 3)))
        written = np.count_nonzero(np.abs(got[2]).sum((1, 2)))
        assert overwritten == written > 0
        assert written < T


def test_through_a_scan_that_appends():
    """Cotangents pass through the cache from the last step to the first."""
    tokens = random(3, 3, K, H)

    def loss(tokens, implementation=None):
        def step(carry, x):
            k_pages, v_pages, lens = carry
            lens = lens + 1
            k_pages, v_pages = ji.update_kv_pages(
                k_pages, v_pages, x, 2 * x, TABLE, lens, implementation=implementation,
                layer=jnp.int32(1),
            )  # fmt: skip
            out = ji.ragged_paged_attention(
                jnp.repeat(x, N // K, 1), k_pages, v_pages, TABLE, lens,
                layer=jnp.int32(1), implementation=implementation,
            )  # fmt: skip
            return (k_pages, v_pages, lens), jnp.sum(jnp.sin(3 * out))

        cache = jnp.zeros((L, P, PAGE_SIZE, K, H))
        carry = cache, cache, jnp.zeros(3, jnp.int32)
        return jnp.sum(jax.lax.scan(jax.checkpoint(step), carry, tokens)[1])

    got = quick_jit(jax.grad(loss))(tokens)
    want = quick_jit(jax.grad(functools.partial(loss, implementation="xla")))(tokens)
    assert_close(got, want, 1e-4)
