# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""merge_partials, rope and the fused append on an NVIDIA GPU, against the reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinfer as ji

pytestmark = pytest.mark.gpu


def both(op, *arrays, **options):
    """Results of the kernel and of the reference, as float32."""
    results = [
        jax.jit(functools.partial(op, **options, implementation=implementation))(
            *arrays
        )
        for implementation in ("cuda", "xla")
    ]
    return jax.tree.map(lambda x: np.asarray(x.astype(jnp.float32)), results)


def normal(seed, shape, dtype):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32).astype(dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("head_dim", [64, 96, 256])
def test_merge_partials(dtype, head_dim):
    outs, lses = (
        normal(0, (5, 7, 3, head_dim), dtype),
        normal(1, (5, 7, 3), jnp.float32),
    )
    lses = lses.at[1].set(-jnp.inf).at[:, 2].set(-jnp.inf)
    outs = jnp.where(lses[..., None] == -jnp.inf, 0, outs)
    got, want = both(ji.merge_partials, outs, lses)
    tolerance = {jnp.float32: 1e-6, jnp.bfloat16: 0.02, jnp.float16: 2e-3}[dtype]
    np.testing.assert_allclose(got[0], want[0], atol=tolerance)
    np.testing.assert_allclose(got[1], want[1], atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("is_interleaved", [True, False])
@pytest.mark.parametrize("rotary_dim", [None, 64])
def test_rope(dtype, is_interleaved, rotary_dim):
    x = normal(0, (9, 6, 128), dtype)
    positions = jnp.array([0, 1, 2, 77, 4095, 8192, 31000, 131071, 999999], jnp.int32)
    scaling = ji.Llama3RopeScaling(8.0, 1.0, 4.0, 8192)
    for options in ({}, {"scaling": scaling, "theta": 500000.0}):
        got, want = both(
            ji.rope,
            x,
            positions,
            is_interleaved=is_interleaved,
            rotary_dim=rotary_dim,
            **options,
        )
        # Sines of large angles are where the two libraries differ.
        tolerance = 2e-5 if dtype == jnp.float32 else 0.04
        np.testing.assert_allclose(got, want, atol=tolerance)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_rope_on_the_way_into_the_cache(dtype):
    shape = (2, 12, 4, 2, 64)
    cache = normal(2, shape, dtype), normal(3, shape, dtype)
    query, key, value = (
        normal(i, (3, n, 64), dtype) for i, n in ((4, 6), (5, 2), (6, 2))
    )
    table = jnp.array([[3, 5, 1], [7, 0, 2], [4, 9, 8]], jnp.int32)
    kv_lens = jnp.array([1, 6, 12], jnp.int32)

    def run(query, k_pages, v_pages, key, value, implementation):
        return ji.rope_update_kv_pages(
            query,
            k_pages,
            v_pages,
            key,
            value,
            table,
            kv_lens,
            layer=jnp.int32(1),
            implementation=implementation,
        )

    got, want = both(run, query, *cache, key, value)
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 if dtype == jnp.float32 else 0.03)


def test_a_cache_of_more_than_2_to_the_32_elements():
    num_layers, num_pages, page_size, heads, head_dim = 3, 45000, 16, 16, 128
    shape = (num_layers, num_pages, page_size, heads, head_dim)
    assert np.prod(shape) > 2**32
    k_pages, v_pages = (jnp.zeros(shape, jnp.bfloat16) for _ in range(2))
    key, value = (normal(i, (1, heads, head_dim), jnp.bfloat16) for i in range(2))
    query = normal(2, (1, heads, head_dim), jnp.bfloat16)
    table = jnp.array([[num_pages - 1]], jnp.int32)  # the last page of the last layer

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def run(k_pages, v_pages):
        where = {"kv_lens": jnp.array([page_size], jnp.int32), "layer": jnp.int32(2)}
        k_pages, v_pages = ji.update_kv_pages(
            k_pages, v_pages, key, value, table, **where
        )
        out = ji.ragged_paged_attention(
            query, k_pages, v_pages, table, implementation="cuda", **where
        )
        return k_pages, v_pages, out

    k_pages, v_pages, out = run(k_pages, v_pages)
    np.testing.assert_array_equal(k_pages[2, -1, -1], key[0])
    # Fifteen keys and values are zero.
    scores = jnp.sum(query[0].astype(jnp.float32) * key[0], -1) / head_dim**0.5
    weight = jnp.exp(scores) / (jnp.exp(scores) + page_size - 1)
    np.testing.assert_allclose(
        out[0].astype(jnp.float32), weight[:, None] * value[0], atol=0.02
    )
