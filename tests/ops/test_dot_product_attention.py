# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""dot_product_attention against jax.nn, over all arguments and their interactions.

Derivatives are compared in tests/test_grad.py, vmap in tests/test_vmap_ops.py.
"""

import itertools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import jaxinfer as ji

H = 64
# B, T, S, N, K: more keys than queries, fewer, several tiles of keys; groups 1, 2, 3.
WIDE, TALL, LONG = (2, 5, 11, 4, 2), (2, 11, 5, 3, 1), (1, 70, 130, 3, 3)
TOLERANCE = {"float32": 2e-5, "float16": 3e-3, "bfloat16": 2e-2}


def arrays(shape, dtype="float32", seed=0):
    """(query, key, value) of (B, T, S, N, K)."""
    batch, queries, keys, heads, kv_heads = shape
    rng = np.random.default_rng(seed)
    sizes = ((queries, heads), (keys, kv_heads), (keys, kv_heads))
    return [
        jnp.asarray(rng.standard_normal((batch, *size, H)), dtype) for size in sizes
    ]


def normal(shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def coins(shape, share, seed=2):
    return jnp.asarray(np.random.default_rng(seed).random(shape) < share)


def check(query, key, value, *args, **kwargs):
    """Both results and both residuals, with and without asking for these."""
    expected = jax.nn.dot_product_attention(
        query, key, value, *args, **kwargs, implementation="xla", return_residual=True
    )
    got = ji.dot_product_attention(
        query, key, value, *args, **kwargs, return_residual=True
    )
    alone = ji.dot_product_attention(query, key, value, *args, **kwargs)
    np.testing.assert_array_equal(alone, got[0])
    error = TOLERANCE[query.dtype.name]
    for name, a, b in zip(("out", "residual"), got, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=error, atol=error, err_msg=name)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("shape", [WIDE, TALL, LONG, (1, 1, 1, 1, 1), (3, 4, 4, 6, 2)])
def test_shapes_and_dtypes(shape, is_causal, dtype):
    check(*arrays(shape, dtype), is_causal=is_causal)


def test_without_a_batch_axis():
    query, key, value = arrays((1, 5, 11, 4, 2))
    single = [x[0] for x in (query, key, value)]
    check(*single, is_causal=True)
    check(*single, normal((4, 5, 11)), coins((1, 5, 11), 0.7))
    check(query, *single[1:])
    check(single[0], key, value, query_seq_lengths=jnp.array([3]))
    check(query[0, 0], key, value)  # jax.nn takes rank 2 as a single query


@pytest.mark.parametrize("form", list(itertools.product([True, False], repeat=4)))
def test_bias_and_mask_broadcast(form):
    batch, queries, keys, heads, _ = WIDE
    full = (batch, heads, queries, keys)
    one = tuple(size if keep else 1 for size, keep in zip(full, form, strict=True))
    other = tuple(1 if keep else size for size, keep in zip(full, form, strict=True))
    check(*arrays(WIDE), normal(one), coins(other, 0.6))


@pytest.mark.parametrize("shape", [(), (11,), (5, 1), (5, 11), (4, 1, 11)])
def test_bias_and_mask_of_fewer_axes(shape):
    check(*arrays(WIDE), normal(shape))
    check(*arrays(WIDE), mask=coins(shape, 0.6))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32"])
def test_bias_dtype(dtype):
    bias = (4 * normal((2, 1, 5, 11))).astype(dtype)
    for query_dtype in ("float32", "bfloat16"):
        check(*arrays(WIDE, query_dtype), bias)


def test_bias_that_masks():
    bias = jnp.where(coins((2, 4, 5, 11), 0.5).at[..., 0].set(True), 0.0, -jnp.inf)
    check(*arrays(WIDE), bias)
    check(*arrays(WIDE), jnp.full((2, 4, 5, 11), jnp.finfo(jnp.float32).min))


@pytest.mark.parametrize("window", [0, 1, 4, (0, 0), (3, 0), (0, 5), (2, 1), (99, 99)])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_local_window_size(shape, is_causal, window):
    check(*arrays(shape), local_window_size=window, is_causal=is_causal)


@pytest.mark.parametrize("window", [(3, None), (None, 2), (None, None)])
@pytest.mark.parametrize("implementation", [None, "xla"])
def test_unbounded_sides_of_the_window(window, implementation):
    """More than jax.nn offers: None is a side as wide as everything."""
    bounded = tuple(99 if side is None else side for side in window)
    qkv = arrays(LONG)
    got = ji.dot_product_attention(
        *qkv, local_window_size=window, implementation=implementation
    )
    expected = jax.nn.dot_product_attention(
        *qkv, local_window_size=tuple(10 * side for side in bounded)
        if window == (None, None) else tuple(999 if s is None else s for s in window),
    )  # fmt: skip
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("lengths", [(0, 11), (3, 5), (11, 0), (99, -1)])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_sequence_lengths(shape, is_causal, lengths):
    lengths = jnp.array(lengths, jnp.int32)
    check(*arrays(shape), query_seq_lengths=lengths, is_causal=is_causal)
    check(*arrays(shape), key_value_seq_lengths=lengths, is_causal=is_causal)
    check(
        *arrays(shape),
        query_seq_lengths=lengths[::-1],
        key_value_seq_lengths=lengths,
        is_causal=is_causal,
    )


def test_lengths_from_the_host():
    check(*arrays(WIDE), query_seq_lengths=[2, 5], key_value_seq_lengths=[11, 4])


@pytest.mark.parametrize("scale", [0.0, 1.0, -0.3, 1e-3, np.float32(0.5)])
def test_scale(scale):
    check(*arrays(WIDE), scale=scale)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_rows_without_a_visible_key_average_all_values(dtype):
    query, key, value = arrays(WIDE, dtype)
    mask = jnp.ones((2, 4, 5, 11), bool).at[0, 1, 2].set(False).at[1, :, 4].set(False)
    check(query, key, value, mask=mask)
    check(query, key, value, mask=mask & False)
    out = ji.dot_product_attention(query, key, value, mask=mask)
    mean = np.asarray(value[0, :, 0], np.float32).mean(0)
    error = TOLERANCE[dtype]
    np.testing.assert_allclose(np.asarray(out[0, 2, 1], np.float32), mean, atol=error)
    # The window leaves queries past the keys without any; the lengths a whole entry.
    qkv = arrays(TALL, dtype)
    lengths = jnp.array([0, 2], jnp.int32)
    check(*qkv, local_window_size=0)
    check(*qkv, local_window_size=(1, 1), key_value_seq_lengths=lengths)
    check(*qkv, query_seq_lengths=lengths, local_window_size=(2, 0), is_causal=True)


def test_keys_and_values_past_their_length_are_not_read():
    query, key, value = arrays(WIDE)
    lengths = jnp.array([4, 11], jnp.int32)
    expected = ji.dot_product_attention(
        query, key, value, key_value_seq_lengths=lengths
    )
    key, value = (x.at[0, 4:].set(jnp.nan) for x in (key, value))
    got = ji.dot_product_attention(query, key, value, key_value_seq_lengths=lengths)
    np.testing.assert_array_equal(got, expected)


@hypothesis.settings(max_examples=40)
@hypothesis.given(st.data())
def test_interactions(data):
    def maybe(strategy):
        return data.draw(st.one_of(st.none(), strategy))

    shape = data.draw(st.sampled_from([WIDE, TALL]))
    batch, queries, keys, heads, _ = shape
    full = (batch, heads, queries, keys)
    seed = data.draw(st.integers(0, 999))
    forms = st.sampled_from([full, (1, 1, queries, keys), (batch, 1, 1, keys)])
    bias, mask = maybe(forms), maybe(forms)
    lengths = st.lists(st.integers(0, 12), min_size=batch, max_size=batch)
    kwargs = {
        "bias": None if bias is None else normal(bias, seed),
        "mask": None if mask is None else coins(mask, 0.6, seed),
        "is_causal": data.draw(st.booleans()),
        "scale": maybe(st.sampled_from([0.3])),
        "local_window_size": maybe(st.sampled_from([0, (3, 1), (0, 4)])),
        "query_seq_lengths": maybe(lengths),
        "key_value_seq_lengths": maybe(lengths),
    }
    dtype = data.draw(st.sampled_from(["float32", "bfloat16"]))
    check(*arrays(shape, dtype, seed), **kwargs)


def test_under_jit_all_arrays_are_operands():
    bias, mask = normal((2, 4, 5, 11)), coins((2, 1, 5, 11), 0.6)
    lengths = jnp.array([3, 9], jnp.int32)

    @jax.jit
    def run(query, key, value, bias, mask, lengths):
        return ji.dot_product_attention(
            query, key, value, bias, mask, key_value_seq_lengths=lengths
        )

    for kv_lens in (lengths, lengths - 3):
        qkv = arrays(WIDE)
        expected = jax.nn.dot_product_attention(
            *qkv, bias, mask, key_value_seq_lengths=kv_lens
        )
        got = run(*qkv, bias, mask, kv_lens)
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)
    assert run._cache_size() == 1


def test_implementation_xla_is_jax_nn_itself():
    kwargs = {"is_causal": True, "local_window_size": (3, 2), "scale": 0.2}
    qkv = arrays((2, 5, 11, 4, 2), "bfloat16")
    got = ji.dot_product_attention(*qkv, **kwargs, implementation="xla")
    np.testing.assert_array_equal(got, jax.nn.dot_product_attention(*qkv, **kwargs))


QUERY, KEY, VALUE = arrays(WIDE)


@pytest.mark.parametrize(
    "changes",
    [
        {"query": QUERY[..., :32]},
        {"query": QUERY.astype(jnp.bfloat16)},
        {"query": QUERY[:, :, :3]},
        {"query": QUERY[:1]},
        {"query": QUERY[None]},
        {"value": VALUE[:, :5]},
        {"value": VALUE[..., :32]},
        {"value": VALUE.astype(jnp.float16)},
        {"mask": normal((2, 4, 5, 11))},
        {"mask": coins((2, 3, 5, 11), 0.5)},
        {"bias": normal((2, 4, 5, 10))},
        {"bias": normal((1, 2, 4, 5, 11))},
        {"query_seq_lengths": jnp.array([1.0, 2.0])},
        {"query_seq_lengths": jnp.array([1, 2, 3])},
        {"key_value_seq_lengths": jnp.array([[1, 2]])},
        {"local_window_size": (1, 2, 3)},
        {"implementation": "tpu"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_what_jax_nn_refuses_is_refused(changes):
    arguments = {"query": QUERY, "key": KEY, "value": VALUE} | changes
    with pytest.raises((ValueError, AssertionError, TypeError)):
        jax.nn.dot_product_attention(**arguments)
    with pytest.raises(ValueError, match="must"):
        ji.dot_product_attention(**arguments)
