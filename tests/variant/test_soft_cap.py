# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Functions of scores that are soft caps: found, and equal to what kernels compute."""

import jax.numpy as jnp
import numpy as np
import pytest
from variant import emitted

from jaxinfer import variants

CAPS = {
    "soft cap": variants.soft_cap(30.0).score_mod,
    "factor first": lambda s, b, h, q, k: jnp.tanh(0.02 * s) * 50,
    "falling": lambda s, b, h, q, k: 5.0 * jnp.tanh(s / -8.0),
    "tanh alone": lambda s, b, h, q, k: jnp.tanh(s),
    "half": lambda s, b, h, q, k: jnp.tanh(s) / 2,
}
OTHERS = {
    "negative": lambda s, b, h, q, k: -3.0 * jnp.tanh(s),
    "tiny factor": lambda s, b, h, q, k: 30 * jnp.tanh(s * 1e-9),
    "sum": lambda s, b, h, q, k: 30 * jnp.tanh(s / 30) + 1.0,
    "of a sum": lambda s, b, h, q, k: 30 * jnp.tanh((s + k) / 30),
    "of a position": lambda s, b, h, q, k: s + jnp.tanh(k / 30),
    "in bfloat16": lambda s, b, h, q, k: 30 * jnp.tanh(s.astype("bfloat16") / 30),
}


@pytest.fixture(scope="module")
def compiled():
    return emitted.build_cases({n: ("score_mod", f) for n, f in CAPS.items()})


@pytest.mark.parametrize("name", CAPS)
def test_a_cap_is_what_the_hook_says(name, compiled):
    text = compiled[name]
    assert "kSoftCap = {" in text.hooks.code
    inputs = emitted.inputs_of("score_mod")
    # Around the score up to which it is a polynomial.
    inputs[0] = np.linspace(-12.0, 12.0, len(inputs[0]), dtype=np.float32)
    wanted = emitted.expected("score_mod", CAPS[name], inputs)
    size = np.abs(
        emitted.expected("score_mod", CAPS[name], [inputs[0] * 1e4, *inputs[1:]])
    )
    error = np.abs(text("score_mod", *inputs) - wanted)
    assert (error <= 6e-7 * size).all()


@pytest.mark.parametrize("name", OTHERS)
def test_all_else_is_no_cap(name):
    hooks, _ = emitted.trace("score_mod", OTHERS[name])
    assert "kSoftCap" not in hooks.code
