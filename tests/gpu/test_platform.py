# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""On an NVIDIA GPU: float32 attention is the reference, around our other kernels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gpu_plans import plan_of

import jaxinfer as ji
from jaxinfer.testing.cases import AttentionCase, make_operands
from jaxinfer.testing.numerics import attention_float64

pytestmark = pytest.mark.gpu

CASES = [
    AttentionCase(batch=4, kv_len=300, lengths="zipf", num_q_heads=6, num_kv_heads=2),
    AttentionCase(
        q_lens=(1, 7, 33, 0),
        kv_lens=(5, 70, 100, 3),
        num_padding=3,
        head_dim_v=128,
        page_size=5,
        num_layers=2,
        has_sink=True,
        options={"local_window_size": (20, None), "logits_soft_cap": 5.0},
    ),
]


@pytest.fixture(scope="module")
def gpu():
    return jax.devices("gpu")[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_attention_on_the_gpu_is_the_reference(case, gpu):
    operands = make_operands(case)
    expected = attention_float64(operands, **case.options)
    cu_q_lens, _ = case.make_lengths()
    plan = plan_of(case, ji.PlanConfig.gpu())
    attend = jax.jit(
        functools.partial(ji.ragged_paged_attention, return_lse=True, **case.options)
    )
    operands = jax.device_put(operands, gpu)
    for given in (None, jax.device_put(plan, gpu)):
        out, lse = attend(**operands, plan=given)
        rows = slice(int(cu_q_lens[-1]))
        np.testing.assert_allclose(out[rows], expected.out[rows], atol=2e-6)
        np.testing.assert_allclose(lse[rows], expected.lse[rows], atol=2e-6)
        assert (out[rows.stop :] == 0).all()


def test_append_and_in_graph_plan_in_a_donated_scan(gpu):
    with jax.default_device(gpu):
        cache = ji.PagedKVCache.create(
            num_layers=3,
            num_pages=8,
            page_size=4,
            num_kv_heads=2,
            head_dim=64,
            dtype=jnp.float32,
        )
        table = jnp.array([[0, 1], [5, 3]], jnp.int32)
        key = jax.random.normal(jax.random.key(0), (5, 3, 2, 2, 64))

        @functools.partial(jax.jit, donate_argnums=0)
        def steps(cache, key):
            def step(cache, now):
                i, k = now
                kv_lens = jnp.full(2, i + 1)
                for layer in range(3):
                    cache = cache.append(
                        jnp.int32(layer),
                        k[layer],
                        k[layer],
                        page_table=table,
                        kv_lens=kv_lens,
                    )
                plan = ji.plan(
                    None,
                    kv_lens,
                    num_tokens=2,
                    max_kv_len=8,
                    num_q_heads=2,
                    num_kv_heads=2,
                    head_dim=64,
                )
                out = ji.ragged_paged_attention(
                    k[2],
                    cache.k_pages,
                    cache.v_pages,
                    table,
                    kv_lens,
                    layer=jnp.int32(2),
                    plan=plan,
                )
                return cache, out

            return jax.lax.scan(step, cache, (jnp.arange(5), key))

        cache, out = steps(cache, key)
    last = np.asarray(key)[:, 2]  # [step, sequence, head, dim]
    scores = np.einsum("bkh,sbkh->bks", last[4], last) / 8
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    expected = np.einsum("bks,sbkh->bkh", weights, last)
    np.testing.assert_allclose(out[4], expected, atol=1e-5)
    np.testing.assert_array_equal(cache.k_pages[2, 3, 0], last[4, 1])


def test_kernels_of_the_cpu_are_refused(gpu):
    q = jax.device_put(jnp.ones((1, 2, 64)), gpu)
    pages = jax.device_put(jnp.ones((1, 4, 1, 64)), gpu)
    table = jnp.zeros((1, 1), jnp.int32)
    with pytest.raises(ValueError, match="compiled for another platform"):
        ji.ragged_paged_attention(
            q, pages, pages, table, jnp.ones(1, jnp.int32), implementation="cpu"
        )
