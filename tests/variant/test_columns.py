# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Lines that hooks add to scores: found, and equal to what the hook says."""

import jax.numpy as jnp
import numpy as np
import pytest
from variant import emitted

SLOPES = jnp.asarray(np.random.default_rng(0).random(8), jnp.float32)
LINES = {
    "alibi": lambda s, b, h, q, k: s + SLOPES[h] * (k - q),
    "other way": lambda s, b, h, q, k: (q - k) * -SLOPES[h] + s,
    "scaled": lambda s, b, h, q, k: s + 2 * (k - q) * (0.5 * SLOPES[h]),
    "far": lambda s, b, h, q, k: s + (k + 7 - q).astype(jnp.float32) * 0.25,
    "two terms": lambda s, b, h, q, k: s + (SLOPES[h] * k - SLOPES[0] * (q + 1)),
    "falling": lambda s, b, h, q, k: s + -(k * SLOPES[h]),
    "integers": lambda s, b, h, q, k: s + (3 * k - q * (h + 1)),
    "no slope": lambda s, b, h, q, k: s + SLOPES[h] * q,
    "from a number": lambda s, b, h, q, k: s + (1.0 - SLOPES[h] * k),
}
OTHERS = {
    "parabola": lambda s, b, h, q, k: s + SLOPES[h] * (k * k),
    "distance": lambda s, b, h, q, k: s + SLOPES[h] * jnp.abs(k - q),
    "of the score": lambda s, b, h, q, k: s + s * (k - q),
    "scaled score": lambda s, b, h, q, k: 2 * s + SLOPES[h] * (k - q),
    "quotient": lambda s, b, h, q, k: s + SLOPES[h] * ((k - q) // 2),
    "read": lambda s, b, h, q, k: s + SLOPES[k],
    "subtracted": lambda s, b, h, q, k: SLOPES[h] * (k - q) - s,
    "rounded": lambda s, b, h, q, k: s + (k - q).astype(jnp.bfloat16),
}


@pytest.fixture(scope="module")
def compiled():
    return emitted.build_cases({n: ("score_mod", f) for n, f in LINES.items()})


@pytest.mark.parametrize("name", LINES)
def test_a_line_is_what_the_hook_adds(name, compiled):
    text = compiled[name]
    assert "kAddsLine = true" in text.hooks.code
    inputs = emitted.inputs_of("score_mod")
    # Where positions are such that no integer wraps, the host takes the line.
    inputs[-1] = np.arange(len(inputs[-1]), dtype=np.int32)
    inputs[-2] = inputs[-1][::-1].copy()
    wanted = emitted.expected("score_mod", LINES[name], inputs)
    np.testing.assert_allclose(text("score_mod", *inputs), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", OTHERS)
def test_all_else_is_no_line(name):
    hooks, _ = emitted.trace("score_mod", OTHERS[name])
    assert "kAddsLine" not in hooks.code
