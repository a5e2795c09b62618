# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Which arrays hooks read: captured ones, and what is computed once and for all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variant import emitted

from jaxinfer.variant import Variant

SLOPES = jnp.linspace(0.1, 0.9, 8)


def score(function):
    return Variant(score_mod=function).trace(16, 16)


def test_a_function_of_captured_arrays_is_computed_once():
    def hook(s, b, h, q_idx, kv_idx):
        return s + jnp.exp2(-SLOPES)[h] * (kv_idx - q_idx)

    hooks, operands = score(hook)
    assert "exp2" not in hooks.code
    (operand,) = operands
    np.testing.assert_array_equal(operand, jnp.exp2(-SLOPES))


def test_a_function_of_literals_is_computed_once():
    hooks, operands = Variant(
        key_mod=lambda x, b, h, p: x * jnp.cos(p * (1 / 10000 ** (jnp.arange(16) / 16)))
    ).trace(16, 16)
    assert "pow" not in hooks.code
    np.testing.assert_allclose(operands[0], 10000.0 ** -(np.arange(16) / 16), rtol=1e-6)


def test_cheap_functions_are_not_stored():
    hooks, operands = Variant(
        key_mod=lambda x, b, h, p: x * jnp.where(jnp.arange(16) % 4 < 2, 2.0, -1.0)
    ).trace(16, 16)
    assert operands == []
    hooks, operands = score(
        lambda s, b, h, q, k: s + (2 * SLOPES - 1)[None, ::-1][0, h]
    )
    assert operands[0] is SLOPES
    assert "load<float>(at, 0," in hooks.code


def test_what_is_viewed_is_stored_and_not_the_view():
    _, operands = score(
        lambda s, b, h, q, k: s + jnp.broadcast_to(jnp.exp(SLOPES), (999, 8))[q, h]
    )
    assert [x.shape for x in operands] == [(8,)]


def test_anything_may_be_computed_of_captured_arrays():
    table = jnp.arange(12.0).reshape(3, 4)

    def hook(s, b, h, q_idx, kv_idx):
        sums = jnp.cumsum(table, axis=0) @ jnp.ones((4, 8)) + jnp.sort(SLOPES)
        many = jax.lax.fori_loop(0, 3, lambda i, x: x * 2, sums)
        picked = jax.lax.cond(table[0, 0] > 1, jnp.sin, jnp.cos, many)
        return s + picked[b % 3, h]

    (text,) = emitted.build([score(hook)])
    assert len(text.operands) == 1
    inputs = emitted.inputs_of("score_mod")
    wanted = emitted.expected("score_mod", hook, inputs)
    emitted.assert_close(text("score_mod", *inputs), wanted)


def test_a_result_that_depends_on_nothing():
    everything = jnp.bool_(True)
    hooks, operands = Variant(mask_mod=lambda b, h, q, k: everything).trace(16, 16)
    assert "load_bool(at, 0, 0)" in hooks.code
    assert operands[0].shape == ()


def test_arrays_are_counted_once():
    table = np.ones((4, 8), np.float32)
    hooks, operands = Variant(
        score_mod=lambda s, b, h, q, k: (
            s + SLOPES[h] * SLOPES[b] + jnp.asarray(table)[b, h]
        ),
        mask_mod=lambda b, h, q, k: SLOPES[h] > jnp.asarray(table)[b, h],
        key_mod=lambda x, b, h, p: x * jnp.exp(jnp.arange(16.0)),
        query_mod=lambda x, b, h, p: x / jnp.exp(jnp.arange(16.0)),
    ).trace(16, 16)
    assert sorted(x.shape for x in operands) == [(4, 8), (8,), (16,)]
    assert hooks.code.count("// Operand") == 3


def test_scalars():
    """Those of JAX are operands, those of Python and numpy are part of the code."""
    scale = jnp.float32(3.25)
    hooks, operands = score(lambda s, b, h, q, k: s * scale + np.float32(1.5) - 0.25)
    assert [x.shape for x in operands] == [()]
    assert "3.25" not in hooks.code
    assert "0x1.8p0f" in hooks.code
    assert "0x1p-2f" in hooks.code


def test_new_values_are_the_same_hooks():
    def traced(slopes, kind=jnp.exp):
        return score(lambda s, b, h, q, k: s + kind(slopes)[h] * (k - q))

    (a, a_operands), (b, b_operands) = traced(SLOPES), traced(SLOPES * 2)
    assert a == b
    assert hash(a) == hash(b)
    assert not np.array_equal(a_operands[0], b_operands[0])
    inputs = emitted.inputs_of("score_mod")
    run = jax.vmap(a.functions(b_operands)["score_mod"])
    wanted = inputs[0] + jnp.exp(SLOPES * 2)[np.clip(inputs[2], -8, 7)] * (
        inputs[4] - inputs[3]
    )
    ordinary = (inputs[2] >= 0) & (abs(inputs[3]) < 999) & (abs(inputs[4]) < 999)
    np.testing.assert_allclose(run(*inputs)[ordinary], wanted[ordinary], rtol=1e-5)


NINE = jnp.linspace(0.1, 0.9, 9)
SHORT = SLOPES.astype(jnp.bfloat16)


@pytest.mark.parametrize(
    "changed",
    [
        lambda s, b, h, q, k: s + NINE[h],
        lambda s, b, h, q, k: s + SHORT[h],
        lambda s, b, h, q, k: s - SLOPES[h],
        lambda s, b, h, q, k: s + SLOPES[b],
        lambda s, b, h, q, k: s + jax.lax.stop_gradient(SLOPES[h]),
        lambda s, b, h, q, k: s + 0 + SLOPES[h],
        lambda s, b, h, q, k: s + SLOPES.at[h].get(mode="fill"),
    ],
)
def test_other_functions_are_other_hooks(changed):
    hooks, _ = score(lambda s, b, h, q, k: s + SLOPES[h])
    assert hooks == score(lambda s, b, h, q, k: s + SLOPES[h])[0]
    assert hooks != score(changed)[0]


def test_shapes_of_vectors_are_part_of_the_hooks():
    variant = Variant(key_mod=lambda x, b, h, p: x * 2)
    assert variant.trace(16, 16)[0] != variant.trace(32, 16)[0]


def test_tracers_may_be_captured():
    """Under jit, vmap and grad, arrays of the program are operands."""
    seen = []

    def run(slopes, scores, heads):
        hooks, operands = score(lambda s, b, h, q, k: s + jnp.exp(slopes)[h] * q)
        seen.append(hooks)
        function = hooks.functions(operands)["score_mod"]
        return jax.vmap(lambda s, h: function(s, 0, h, 2, 3))(scores, heads)

    scores, heads = jnp.arange(5.0), jnp.arange(5)
    wanted = scores + 2 * jnp.exp(SLOPES[:5])
    np.testing.assert_allclose(run(SLOPES, scores, heads), wanted, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(run)(SLOPES, scores, heads), wanted, rtol=1e-6)
    batched = jax.vmap(run, in_axes=(0, None, None))(
        jnp.stack([SLOPES, 2 * SLOPES]), scores, heads
    )
    np.testing.assert_allclose(batched[0], wanted, rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda x: run(x, scores, heads).sum()))(SLOPES)
    np.testing.assert_allclose(
        gradient, jnp.where(jnp.arange(8) < 5, 2 * jnp.exp(SLOPES), 0), rtol=1e-6
    )
    assert len(set(seen)) == 1


def test_functions_are_differentiable_in_scores_and_vectors():
    hooks, operands = Variant(
        score_mod=lambda s, b, h, q, k: 30 * jnp.tanh(s / 30),
        key_mod=lambda x, b, h, p: x[::-1] ** 2,
    ).trace(4, 4)
    functions = hooks.functions(operands)
    slope = jax.grad(functions["score_mod"])(3.0, 0, 0, 0, 0)
    np.testing.assert_allclose(slope, 1 / np.cosh(0.1) ** 2, rtol=1e-5)
    x = jnp.arange(4.0)
    jacobian = jax.jacobian(functions["key_mod"])(x, 0, 0, 0)
    np.testing.assert_allclose(jacobian, np.diag(2 * x)[::-1])


def test_float64_may_be_converted():
    with jax.enable_x64(True):
        table = jnp.arange(8, dtype=jnp.float64)
        hooks, operands = score(lambda s, b, h, q, k: s + table.astype(jnp.float32)[h])
        assert operands[0].dtype == jnp.float32
        with pytest.raises(NotImplementedError, match="float64"):
            score(lambda s, b, h, q, k: s + table[h])
    assert "// Operand 0: float32[8]" in hooks.code


def test_reads_of_the_sequence_are_known():
    def uses_seq(**hooks):
        return Variant(**hooks).trace(16, 16)[0].uses_seq

    assert not uses_seq(score_mod=lambda s, b, h, q, k: s * (b * 2).ndim)
    assert not uses_seq(mask_mod=lambda b, h, q, k: q >= k)
    assert uses_seq(mask_mod=lambda b, h, q, k: q >= k + b)
    assert uses_seq(
        mask_mod=lambda b, h, q, k: q >= k,
        value_mod=lambda x, b, h, p: x * SLOPES[b],
    )
