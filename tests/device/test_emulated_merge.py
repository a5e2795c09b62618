# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The CUDA merge_partials, handler and kernel, on the host, against float64."""

import emulation
import jax
import jax.numpy as jnp
import numpy as np
import pytest

EPS = float(np.finfo(np.float32).eps)


def merge(outs, lses, sink=None, use_softmax=True, seed=0):
    results = [
        jax.ShapeDtypeStruct(outs.shape[1:], outs.dtype),
        jax.ShapeDtypeStruct(lses.shape[1:], jnp.float32),
    ]
    sink = np.zeros(0, np.float32) if sink is None else sink
    call = jax.jit(
        lambda *operands: emulation.call(
            "merge_partials", results, *operands, use_softmax=use_softmax, seed=seed
        )
    )
    return [np.asarray(x).astype(np.float64) for x in call(outs, lses, sink)]


def merge_float64(outs, lses, sink):
    seen = lses > -np.inf
    outs = np.where(seen[..., None], outs.astype(np.float64), 0)
    m = np.where(seen.any(0), lses.max(0), 0).astype(np.float64)
    weights = np.where(seen, np.exp(np.where(seen, lses, 0) - m), 0)
    total = weights.sum(0)
    with np.errstate(divide="ignore"):
        lse = m + np.log(total)
    if sink is not None:
        total = total + np.exp(sink - m)
    return (weights[..., None] * outs).sum(0) / np.where(total, total, 1)[
        ..., None
    ], lse


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("splits", "tokens", "heads", "head_dim", "has_sink"),
    [
        (1, 1, 1, 64, False),
        (2, 7, 3, 96, True),
        (5, 40, 8, 128, False),
        (64, 5, 2, 256, True),
        (4, 9, 5, 192, True),
        (3, 2, 2, 1096, False),  # more than the lanes of a row
        (7, 11, 3, 8, True),
        (6, 3, 2, 13, False),  # not 16 bytes at a time
    ],
)
def test_against_float64(splits, tokens, heads, head_dim, has_sink, dtype):
    """Parts without keys, and full of garbage then, among them."""
    rng = np.random.default_rng(splits)
    outs = rng.standard_normal((splits, tokens, heads, head_dim))
    outs = outs.astype(jnp.dtype(dtype))
    lses = rng.normal(0, 5, (splits, tokens, heads)).astype(np.float32)
    no_keys = rng.random(lses.shape) < 0.3
    no_keys[:, 0, 0] = head_dim % 16 == 0  # at times one row has none at all
    lses[no_keys] = -np.inf
    outs[no_keys] = rng.choice([np.nan, np.inf, -np.inf, 7], (no_keys.sum(), head_dim))
    sink = rng.standard_normal(heads).astype(np.float32) * 3 if has_sink else None
    out, lse = merge(outs, lses, sink, seed=head_dim)
    want, want_lse = merge_float64(outs, lses, sink)
    error = 40 * EPS + jnp.finfo(dtype).eps
    np.testing.assert_allclose(out, want, rtol=error, atol=error)
    np.testing.assert_allclose(lse, want_lse, rtol=4 * EPS, atol=4 * EPS)


def test_sums_without_softmax():
    rng = np.random.default_rng(0)
    outs = rng.standard_normal((9, 4, 2, 64), np.float32)
    lses = np.full((9, 4, 2), -np.inf, np.float32)
    out, lse = merge(outs, lses, use_softmax=False)
    np.testing.assert_allclose(out, outs.astype(np.float64).sum(0), atol=9 * EPS * 4)
    assert not lse.any()


def test_nan_is_kept():
    outs = np.ones((2, 2, 1, 64), np.float32)
    outs[1, 0, 0, 5] = np.nan
    lses = np.zeros((2, 2, 1), np.float32)
    lses[0, 1] = np.nan
    out, lse = merge(outs, lses)
    assert np.isnan(out[0, 0]).nonzero()[0].tolist() == [5]
    assert np.isnan(out[1]).all()
    assert np.isnan(lse[1, 0])
    assert lse[0, 0] == np.log(np.float32(2))
