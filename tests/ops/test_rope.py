# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""rope: against complex numbers in float64, and Hugging Face's frequencies."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rope_oracle import assert_rotated

import jaxinfer as ji
from jaxinfer.ops.rope import rope_frequencies

LLAMA_3_1 = ji.Llama3RopeScaling(8.0, 1.0, 4.0, 8192)


def some(*shape, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal(shape), dtype)


@pytest.mark.parametrize("is_interleaved", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("rotary_dim", [None, 2, 48])
def test_against_float64(rotary_dim, dtype, is_interleaved):
    x = some(6, 3, 64, dtype=dtype)
    positions = np.array([0, 1, 77, 131_071, 1_000_000, -5], np.int32)
    options = {"theta": 5e5, "rotary_dim": rotary_dim, "is_interleaved": is_interleaved}
    got = jax.jit(functools.partial(ji.rope, **options))(x, positions)
    frequencies = 5e5 ** (-np.arange(0, rotary_dim or 64, 2) / (rotary_dim or 64))
    assert_rotated(got, x, positions, frequencies, is_interleaved)
    assert (got[0] == x[0]).all()


def hugging_face_llama3(theta, head_dim, factor, low, high, context):
    """As transformers' modeling_rope_utils computes it, in plain Python."""
    result = []
    for i in range(0, head_dim, 2):
        frequency = 1.0 / theta ** (i / head_dim)
        wavelength = 2 * math.pi / frequency
        if wavelength > context / low:
            frequency = frequency / factor
        elif wavelength >= context / high:
            smooth = (context / wavelength - low) / (high - low)
            frequency = (1 - smooth) * frequency / factor + smooth * frequency
        result.append(frequency)
    return np.array(result)


@pytest.mark.parametrize(
    ("theta", "head_dim", "numbers"),
    [
        (5e5, 128, (8.0, 1.0, 4.0, 8192)),  # Llama 3.1
        (5e5, 64, (32.0, 1.0, 4.0, 8192)),  # Llama 3.2 1B
        (1e4, 96, (3.0, 0.5, 2.5, 300)),
    ],
)
def test_frequencies_of_llama_3_1(theta, head_dim, numbers):
    scaling = ji.Llama3RopeScaling(*numbers)
    want = hugging_face_llama3(theta, head_dim, *numbers)
    got = rope_frequencies(head_dim, theta, None, scaling)
    np.testing.assert_allclose(got, want, rtol=2e-7)
    ratio = want / hugging_face_llama3(theta, head_dim, 1.0, *numbers[1:])
    assert (ratio == 1).any()
    assert ((ratio < 1) & (ratio > 1.01 / numbers[0])).any()
    assert np.isclose(ratio, 1 / numbers[0]).any()
    x, positions = some(4, 2, head_dim), np.array([3, 900, 8191, 100_000], np.int32)
    turned = ji.rope(x, positions, theta=theta, scaling=scaling)
    assert_rotated(turned, x, positions, got, False)


def test_scores_depend_on_the_distance_alone():
    q, k = some(1, 1, 64), some(1, 1, 64, seed=1)

    def score(i, j):
        i, j = (jnp.full(1, n, jnp.int32) for n in (i, j))
        return float((ji.rope(q, i) * ji.rope(k, j)).sum())

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-4)
    assert score(7, 3) != pytest.approx(score(3, 7), abs=1e-2)


def test_batches_and_derivatives():
    x, positions = some(3, 5, 2, 32), jnp.arange(15, dtype=jnp.int32).reshape(3, 5)
    want = jnp.stack([ji.rope(*pair) for pair in zip(x, positions, strict=True)])
    np.testing.assert_array_equal(jax.vmap(ji.rope)(x, positions), want)
    moved = jax.vmap(ji.rope, in_axes=(2, 1), out_axes=2)
    got = moved(jnp.moveaxis(x, 0, 2), positions.T)
    np.testing.assert_array_equal(jnp.moveaxis(got, 2, 0), want)
    one = jax.vmap(ji.rope, in_axes=(None, 0))(x[0], positions)
    np.testing.assert_array_equal(one[0], want[0])
    # The derivative of a rotation turns back.
    back = jax.vjp(lambda x: ji.rope(x, positions[1]), x[1])[1](x[2])[0]
    np.testing.assert_allclose(back, ji.rope(x[2], -positions[1]), atol=1e-6)


def test_scaling_is_a_value():
    assert ji.Llama3RopeScaling(8.0, 1.0, 4.0, 8192) == LLAMA_3_1
    assert hash(LLAMA_3_1) == hash(ji.Llama3RopeScaling(8.0, 1.0, 4.0, 8192))


X, POSITIONS = np.zeros((3, 2, 64), np.float32), np.zeros(3, np.int32)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"x": X[0]}, r"x must have shape \[T, heads, H\] \(rank 3\)"),
        ({"x": X.astype(np.int32)}, r"x must be one of .*, got int32"),
        ({"positions": POSITIONS[:2]}, r"positions must have shape \[T\] with T = 3"),
        ({"positions": X[:, 0, 0]}, "positions must be int32, got float32"),
        ({"rotary_dim": 7}, "rotary_dim must be even and from 2 to .* = 64, got 7"),
        ({"rotary_dim": 66}, "rotary_dim must be even and from 2 to .* = 64, got 66"),
        ({"rotary_dim": 3.5}, r"rotary_dim must be a Python int .*, got 3\.5"),
        ({"theta": 0.0}, r"theta must be positive, got 0\.0"),
        ({"theta": "much"}, "theta must be a finite Python number, got 'much'"),
        ({"is_interleaved": 1}, "is_interleaved must be a Python bool, got 1"),
        ({"scaling": 8.0}, r"scaling must be None or a Llama3RopeScaling, got 8\.0"),
        ({"implementation": "gpu"}, "implementation must be one of .*, got 'gpu'"),
    ],
)
def test_errors(changes, text):
    with pytest.raises(ValueError, match=text):
        ji.rope(**({"x": X, "positions": POSITIONS} | changes))


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0, 1, 4, 10), "factor must be positive, got 0"),
        ((8, 4, 4, 10), "low_freq_factor must be below high_freq_factor, got 4 and 4"),
        ((8, 1, 4, -1), "original_max_position must be positive, got -1"),
        ((8, 1, math.inf, 10), "high_freq_factor must be a finite Python number"),
    ],
)
def test_errors_of_scaling(numbers, text):
    with pytest.raises(ValueError, match=text):
        ji.Llama3RopeScaling(*numbers)


def test_no_kernel_for_cpus():
    with pytest.raises(NotImplementedError, match=r"rope: no cpu kernel .*; use"):
        ji.rope(X, POSITIONS, implementation="cpu")
