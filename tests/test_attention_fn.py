# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""attention_fn inside nnx.MultiHeadAttention, against nnx's own attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinfer.flax import attention_fn

FEATURES, NUM_HEADS, BATCH, LENGTH = 256, 4, 2, 9  # head_dim 64


def make_pair(**options):
    """Two modules of equal parameters: with our attention and with nnx's own."""
    options = dict(num_heads=NUM_HEADS, in_features=FEATURES, decode=False) | options
    ours = nnx.MultiHeadAttention(
        attention_fn=attention_fn, rngs=nnx.Rngs(3), **options
    )
    own = nnx.MultiHeadAttention(rngs=nnx.Rngs(3), **options)
    return ours, own


def make_input(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), (*shape, FEATURES))


def assert_same(ours, own):
    np.testing.assert_allclose(ours, own, rtol=0, atol=2e-6)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("mask_shape", [None, (), (BATCH, 1), (BATCH, NUM_HEADS)])
@pytest.mark.parametrize("num_kv_heads", [None, 2])
def test_self_attention(is_causal, mask_shape, num_kv_heads):
    ours, own = make_pair(num_kv_heads=num_kv_heads)
    x = make_input(BATCH, LENGTH)
    mask = None
    if mask_shape is not None:
        shape = (*mask_shape, LENGTH, LENGTH)
        mask = jax.random.bernoulli(jax.random.key(1), 0.5, shape)
        if mask.ndim == 2:
            mask = mask[None, None]
        mask = mask.astype(jnp.float32)  # as nnx.make_causal_mask makes them
    options = {"mask": mask, "is_causal": is_causal}
    assert_same(ours(x, **options), own(x, **options))


def test_cross_attention():
    ours, own = make_pair()
    x, memory = make_input(BATCH, 5), make_input(BATCH, LENGTH, seed=1)
    assert_same(ours(x, memory), own(x, memory))


def oracle(q, k, v, bias):
    """[batch..., T, N, H] in float64."""
    q, k, v, bias = (np.asarray(x, np.float64) for x in (q, k, v, bias))
    scores = np.einsum("...thd,...shd->...hts", q, k) / np.sqrt(q.shape[-1]) + bias
    weights = np.exp(scores)
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("...hts,...shd->...thd", weights, v)


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_any_number_of_batch_axes(batch):
    q, k, v = (make_input(*batch, LENGTH, seed=i) for i in range(3))
    q, k, v = (x.reshape(*x.shape[:-1], NUM_HEADS, -1) for x in (q, k, v))
    bias = jax.random.normal(jax.random.key(4), (*batch, NUM_HEADS, LENGTH, LENGTH))
    assert_same(attention_fn(q, k, v, bias), oracle(q, k, v, bias))
    one_mask = np.tri(LENGTH)
    expected = oracle(q, k, v, np.where(one_mask, 0, -np.inf))
    assert_same(attention_fn(q, k, v, mask=one_mask), expected)
    assert_same(attention_fn(q, k, v, is_causal=True), expected)


def test_decode_mode():
    ours, own = make_pair(decode=True)
    x = make_input(BATCH, LENGTH)
    for module in (ours, own):
        module.init_cache(x.shape)
    full = own(x, decode=False, is_causal=True)
    for i in range(LENGTH):
        token = x[:, i : i + 1]
        y = ours(token)
        assert_same(y, own(token))
        assert_same(y, full[:, i : i + 1])


def test_computation_dtype():
    ours, own = make_pair(dtype=jnp.bfloat16)
    x = make_input(BATCH, LENGTH)
    y = ours(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        y.astype(jnp.float32), own(x).astype(jnp.float32), rtol=0.02, atol=0.02
    )


def test_gradients():
    ours, own = make_pair()
    x = make_input(BATCH, LENGTH)

    def loss(x, module):
        return (module(x, is_causal=True) ** 2).sum()

    np.testing.assert_allclose(
        jax.grad(loss)(x, ours), jax.grad(loss)(x, own), rtol=1e-4, atol=1e-5
    )


def test_dropout_is_refused_unless_deterministic():
    ours, own = make_pair(dropout_rate=0.1)
    x = make_input(BATCH, LENGTH)
    assert_same(ours(x, deterministic=True), own(x, deterministic=True))
    with pytest.raises(
        NotImplementedError, match=r"dropout_rate must be 0 .*got.*0\.1"
    ):
        ours(x, deterministic=False)


def test_sowing_weights_is_refused():
    ours, _ = make_pair()
    with pytest.raises(NotImplementedError, match=r"module must be None \(sow_weights"):
        ours(make_input(BATCH, LENGTH), sow_weights=True)


def test_any_head_dim_with_the_reference():
    module = nnx.MultiHeadAttention(
        num_heads=4,
        in_features=32,
        decode=False,
        attention_fn=functools.partial(attention_fn, implementation="xla"),
        rngs=nnx.Rngs(3),
    )
    own = nnx.MultiHeadAttention(
        num_heads=4, in_features=32, decode=False, rngs=nnx.Rngs(3)
    )
    x = jax.random.normal(jax.random.key(0), (BATCH, LENGTH, 32))
    assert_same(module(x), own(x))
    module.attention_fn = attention_fn
    with pytest.raises(NotImplementedError, match="head_dim must be one of"):
        module(x)
