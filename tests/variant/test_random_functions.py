# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Random functions of scalars and vectors: many are compiled at once."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from variant import emitted

H = emitted.HEAD_DIM
TABLE = np.random.default_rng(1).integers(-4, 4, (6, 10)).astype(np.float32)

# Exact in float32, so that no order of rounding matters; values stay small.
_UNARY = [jnp.negative, jnp.abs, jnp.sign, jnp.floor, lambda x: x / 4, lambda x: x % 5]
_BINARY = [jnp.add, jnp.subtract, jnp.maximum, jnp.minimum]
_BINARY += [lambda x, y: x % (y % 7 + 8)]
_INT_BINARY = [
    *(jnp.add, jnp.subtract, jnp.multiply, jnp.maximum),
    *(jnp.bitwise_xor, jnp.bitwise_and),
    lambda x, y: x // y,
    lambda x, y: x % y,
    lambda x, y: x >> (y & 7),
    lax.div,
    lax.rem,
]
_MOVES = [
    lambda x: x[::-1],
    lambda x: jnp.roll(x, 3),
    lambda x: x.reshape(4, 4).T.reshape(-1),
    lambda x: x.reshape(2, -1)[::-1].reshape(-1),
    lambda x: jnp.concatenate([x[5:], x[:5]]),
    lambda x: jnp.pad(x[2:9], (4, 5)),
    lambda x: jnp.repeat(x[::2], 2),
    lambda x: jnp.tile(x[3:7], 4),
    lambda x: x[(jnp.arange(H) * 5 + 2) % H],
    lambda x: jnp.stack([x[:8], x[8:]], -1).reshape(-1),
]


def ints():
    leaf = st.sampled_from(["b", "h", "q", "k"]) | st.integers(-9, 9)
    return st.recursive(
        leaf, lambda t: st.tuples(st.just("int"), st.sampled_from(_INT_BINARY), t, t)
    )


def floats(leaf):
    leaf = leaf | st.sampled_from([0.5, -3.0, 8.0])
    leaf = leaf | st.tuples(st.just("table"), ints(), ints())
    leaf = leaf | st.tuples(st.just("convert"), ints())

    def more(t):
        return (
            st.tuples(st.just("unary"), st.sampled_from(_UNARY), t)
            | st.tuples(st.just("binary"), st.sampled_from(_BINARY), t, t)
            | st.tuples(st.just("where"), ints(), ints(), t, t)
            | st.tuples(st.just("move"), st.sampled_from(_MOVES), t)
        )

    return st.recursive(leaf, more, max_leaves=12)


def evaluate(tree, names):
    """The tree on arrays; moves apply to vectors."""
    if isinstance(tree, str):
        return names[tree]
    if isinstance(tree, int | float):
        return jnp.asarray(tree, "int32" if isinstance(tree, int) else "float32")
    kind, *parts = tree
    if kind in ("int", "unary", "binary", "move"):
        function, *parts = parts
    values = [evaluate(part, names) for part in parts]
    if kind == "table":
        return jnp.asarray(TABLE)[values[0], values[1]]
    if kind == "convert":
        return (values[0] % 64).astype("float32")
    if kind == "where":
        return jnp.where(values[0] < values[1], values[2], values[3])
    if kind == "move":
        return function(jnp.broadcast_to(values[0], (H,)))
    return function(*values)


def hook_of(tree, is_vector):
    if is_vector:

        def key_mod(x, b, h, k):
            names = {"x": x, "b": b, "h": h, "q": k * 3, "k": k}
            return jnp.broadcast_to(evaluate(tree, names), (H,)).astype("float32")

        return key_mod

    def score_mod(score, b, h, q_idx, kv_idx):
        names = {"x": score, "b": b, "h": h, "q": q_idx, "k": kv_idx}
        result = evaluate(tree, names)
        return result.ravel()[3] if result.ndim else result

    return score_mod


def check(trees, is_vector):
    hook = "key_mod" if is_vector else "score_mod"
    functions = [hook_of(tree, is_vector) for tree in trees]
    inputs = emitted.inputs_of(hook, rows=60)
    inputs[0] = np.round(inputs[0] * 4) / 4
    texts = emitted.build([emitted.trace(hook, f) for f in functions])
    for tree, function, text in zip(trees, functions, texts, strict=True):
        wanted = emitted.expected(hook, function, inputs)
        np.testing.assert_allclose(
            text(hook, *inputs), wanted, rtol=1e-5, atol=1e-5, err_msg=str(tree)
        )


@pytest.mark.parametrize("is_vector", [False, True])
@settings(max_examples=1)
@given(data=st.data())
def test_random_functions(is_vector, data):
    leaf = st.just("x")
    trees = data.draw(st.lists(floats(leaf), min_size=25, max_size=25))
    check(trees, is_vector)


@pytest.mark.exhaustive
@pytest.mark.parametrize("is_vector", [False, True])
@settings(max_examples=30)
@given(data=st.data())
def test_many_random_functions(is_vector, data):
    trees = data.draw(st.lists(floats(st.just("x")), min_size=40, max_size=40))
    check(trees, is_vector)
