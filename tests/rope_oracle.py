# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Rotary embedding in float64, by complex numbers."""

import jax.numpy as jnp
import numpy as np


def rotate(x, positions, frequencies, is_interleaved):
    """x [T, heads, H] in float64, turned by angles that are rounded to float32."""
    frequencies = np.asarray(frequencies, np.float32)
    size = 2 * len(frequencies)
    angle = np.asarray(positions).astype(np.float32)[:, None, None] * frequencies
    x = np.asarray(x).astype(np.float64)
    turned = x[..., :size]
    pairs = (-1, 2) if is_interleaved else (2, -1)
    a, b = np.moveaxis(
        turned.reshape(*x.shape[:-1], *pairs), -1 if is_interleaved else -2, 0
    )
    z = (a + 1j * b) * np.exp(1j * angle.astype(np.float64))
    turned = np.stack([z.real, z.imag], -1 if is_interleaved else -2)
    return np.concatenate([turned.reshape(*x.shape[:-1], size), x[..., size:]], -1)


def tolerance(x):
    """What rounding to the dtype of x, and sums of two products in float32, may add."""
    eps = jnp.finfo(x.dtype).eps / 2 + 6 * np.finfo(np.float32).eps
    size = np.abs(np.asarray(x).astype(np.float64)).max(initial=1)
    return float(eps) * 2 * size


def assert_rotated(got, x, positions, frequencies, is_interleaved):
    want = rotate(x, positions, frequencies, is_interleaved)
    got = np.asarray(got)
    assert (got.shape, got.dtype) == (x.shape, x.dtype)
    np.testing.assert_allclose(got.astype(np.float64), want, atol=tolerance(x), rtol=0)
