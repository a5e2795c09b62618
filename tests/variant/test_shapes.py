# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Hooks of vectors: elements that move, and the rotations that models use."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from variant import emitted

H = emitted.HEAD_DIM
HALF = H // 2
TABLE = np.random.default_rng(7).normal(0, 1, (3, H)).astype(np.float32)
COLUMN = np.linspace(-1, 1, H, dtype=np.float32)


def half_split(x, b, h, position):
    frequency = 1 / 10000 ** (jnp.arange(HALF) / HALF)
    angle = (position % 1000) * frequency
    a, c = x[:HALF], x[HALF:]
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    return jnp.concatenate([a * cos - c * sin, c * cos + a * sin])


def interleaved(x, b, h, position):
    angle = (position % 1000) / 500.0 ** (jnp.arange(HALF) / HALF)
    a, c = x[::2], x[1::2]
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    return jnp.stack([a * cos - c * sin, c * cos + a * sin], axis=-1).reshape(H)


def interleaved_by_pairs(x, b, h, position):
    pairs = x.reshape(HALF, 2)
    turned = jnp.stack([-pairs[:, 1], pairs[:, 0]], axis=-1)
    angle = (position % 100) * 0.01
    return (pairs * jnp.cos(angle) + turned * jnp.sin(angle)).reshape(-1)


def partial(x, b, h, position):
    turned, rest = x[:8], x[8:]
    angle = (position % 1000) * jnp.exp(-jnp.arange(4.0))
    a, c = jnp.split(turned, 2)
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    return jnp.concatenate([a * cos - c * sin, c * cos + a * sin, rest])


def rotate_half(x, b, h, position):
    angle = (position % 100) * jnp.tile(jnp.exp(-jnp.arange(float(HALF))), 2)
    rotated = jnp.concatenate([-x[HALF:], x[:HALF]])
    return x * jnp.cos(angle) + rotated * jnp.sin(angle)


def of(function):
    return lambda x, b, h, position: function(x)


CASES = {
    "half_split": half_split,
    "interleaved": interleaved,
    "interleaved_by_pairs": interleaved_by_pairs,
    "partial": partial,
    "rotate_half": rotate_half,
    "scalar": of(lambda x: x[3] + x),
    "scalars": lambda x, b, h, p: x * b.astype("float32") + h - (p % 9),
    "broadcast": of(lambda x: jnp.broadcast_to(x[None], (2, H))[1] + x[:, None][:, 0]),
    "reverse": of(lambda x: x[::-1] * COLUMN),
    "reverse_twice": of(
        lambda x: lax.rev(lax.rev(x.reshape(4, 4), (0,)), (1,)).ravel()
    ),
    "roll": of(lambda x: jnp.roll(x, 5)),
    "strided": of(lambda x: jnp.concatenate([x[1::3], x[::3], x[2::3]])),
    "slice_of_slice": of(lambda x: jnp.tile(x[4:12][2:6], 4)),
    "repeat": of(lambda x: jnp.repeat(x[:HALF], 2)),
    "repeat_static": of(
        lambda x: jnp.repeat(x[:4], np.array([1, 5, 2, 8]), total_repeat_length=H)
    ),
    "transpose": of(lambda x: x.reshape(2, 4, 2).transpose(2, 0, 1).reshape(-1)),
    "reshape_odd": of(lambda x: jnp.pad(x[:15].reshape(3, 5).T.reshape(-1), (0, 1))),
    "pad": of(lambda x: jnp.pad(x[3:9], (4, 6), constant_values=2.5)),
    "pad_negative": of(lambda x: lax.pad(x, 9.0, ((-3, 3, 0),))),
    "pad_moved": of(lambda x: lax.pad(x, 9.0, ((3, -3, 0),))),
    "pad_matrix": of(lambda x: jnp.pad(x[:4].reshape(2, 2), 1)[:, :].reshape(-1)),
    "concatenate_many": of(lambda x: jnp.concatenate([x[:1], x[5:7], x[1:5], x[7:]])),
    "concatenate_rows": of(
        lambda x: jnp.concatenate([x.reshape(4, 4)[2:], x.reshape(4, 4)[:2]]).ravel()
    ),
    "concatenate_known": of(lambda x: x + jnp.concatenate([x[:4], -x[4:9]])[6]),
    "stack_first": of(lambda x: jnp.stack([x[8:], x[:8]]).ravel()),
    "stack_known": of(lambda x: x * jnp.stack([x[1], x[2], x[5]])[2]),
    "split_uneven": of(lambda x: jnp.concatenate(jnp.split(x, [3, 7])[::-1])),
    "iota": of(lambda x: x * jnp.arange(H) + jnp.arange(H)[::-1] % 3),
    "iota_matrix": of(lambda x: x + lax.broadcasted_iota("int32", (4, 4), 1).ravel()),
    "where": of(lambda x: jnp.where(jnp.arange(H) < 5, x, -x)),
    "squeeze": of(lambda x: lax.squeeze(lax.expand_dims(x, (0, 2)), (0, 2)) * 2),
    "take": of(lambda x: jnp.take(x, jnp.arange(H) ^ 1) + x[(jnp.arange(H) + 7) % H]),
    "take_far": of(
        lambda x: x.at[jnp.arange(H) * 3 - 20].get(mode="fill", fill_value=-3)
    ),
    "take_clipped": of(lambda x: x.at[jnp.arange(H) * 3 - 20].get(mode="clip")),
    "take_by_position": lambda x, b, h, p: jnp.where(p > 5, x[p], x),
    "dynamic_slice": lambda x, b, h, p: jnp.tile(lax.dynamic_slice(x, (p,), (4,)), 4),
    "table_row": lambda x, b, h, p: x + TABLE_ARRAY()[b] * COLUMN,
    "outer": of(lambda x: (x[:4, None] * x[None, 4:8]).reshape(-1)),
    "bfloat16": of(lambda x: x.astype("bfloat16")),
    "silu": of(jax.nn.silu),
    "nested": of(jax.jit(lambda x: jnp.flip(jax.jit(jnp.negative)(x)))),
    "same": of(lambda x: x),
    "constant": lambda x, b, h, p: jnp.zeros(H),
    "constant_array": lambda x, b, h, p: jnp.asarray(COLUMN),
}


def TABLE_ARRAY():  # noqa: N802
    return jnp.asarray(TABLE)


# Which hook computes a case: every one has its turn.
HOOKS = ("query_mod", "key_mod")


@pytest.fixture(scope="module")
def compiled():
    hooks = {name: HOOKS[i % 2] for i, name in enumerate(CASES)}
    return emitted.build_cases({name: (hooks[name], CASES[name]) for name in CASES})


@pytest.mark.parametrize("name", CASES)
def test_the_text_computes_what_jax_does(name, compiled):
    text = compiled[name]
    (hook,) = text.hooks.names
    inputs = emitted.inputs_of(hook)
    # Float32 reduces angles of thousands differently everywhere.
    inputs[3] = np.clip(inputs[3], -100, 300)
    wanted = emitted.expected(hook, CASES[name], inputs)
    actual = text(hook, *inputs)
    np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-4)
    run = jax.vmap(text.hooks.functions(text.operands)[hook])
    np.testing.assert_allclose(run(*inputs), wanted, rtol=1e-5, atol=1e-4)


def test_values_and_outputs_have_their_own_size():
    size = emitted.HEAD_DIM_V
    assert size != emitted.HEAD_DIM

    def value_mod(x, b, h, position):
        return x[::-1] + position

    def output_mod(x, b, h, position):
        return jnp.concatenate([x[size // 2 :], x[: size // 2]])

    variant = emitted.Variant(value_mod=value_mod, output_mod=output_mod)
    (text,) = emitted.build([variant.trace(emitted.HEAD_DIM, size)])
    for hook, function in (("value_mod", value_mod), ("output_mod", output_mod)):
        inputs = emitted.inputs_of(hook)
        wanted = emitted.expected(hook, function, inputs)
        emitted.assert_close(text(hook, *inputs), wanted)


def test_indices_stay_sums():
    code = emitted.trace("key_mod", CASES["interleaved"])[0].code
    assert re.search(r"vector\(i - t\d+ \+ 1\)", code)  # not 2 * (i / 2) + 1
    code = emitted.trace("key_mod", CASES["roll"])[0].code
    assert "vector(i + 11)" in code
    assert "vector(i - 5)" in code
    code = emitted.trace("key_mod", CASES["slice_of_slice"])[0].code
    assert "+ 6)" in code
