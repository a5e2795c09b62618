# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Hooks that read arrays: any index, any number of axes, and never out of bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from variant import emitted

RNG = np.random.default_rng(3)
SLOPES = RNG.normal(0, 1, 8).astype(np.float32)
TABLE = RNG.normal(0, 1, (5, 7)).astype(np.float32)
CUBE = RNG.normal(0, 1, (4, 8, 33)).astype(np.float32)
BITS = RNG.integers(0, 256, (4, 40), np.uint8)
WORDS = RNG.integers(0, 2**32, (300, 10), np.uint32)
DOCUMENTS = np.sort(RNG.integers(0, 6, 300)).astype(np.int32)
SHORT = jnp.asarray(RNG.normal(0, 3, (8, 9)), jnp.bfloat16)
SCALES = 10.0 ** RNG.integers(-8, 5, 50)
HALVES = jnp.asarray(RNG.normal(0, 1, 50) * SCALES, jnp.float16)
SEEN = RNG.random((8, 300)) < 0.5
MODES = ("clip", "fill", "promise_in_bounds")


def array(value):
    return jnp.asarray(value)


SCORES = {
    "alibi": lambda s, b, h, q, k: s + array(SLOPES)[h] * (k - q),
    "scalar": lambda s, b, h, q, k: s * jnp.asarray(SLOPES)[2] + jnp.float32(SCALE),
    "table": lambda s, b, h, q, k: s + array(TABLE)[q, k],
    "table_row": lambda s, b, h, q, k: s + array(TABLE)[q][3],
    "table_column": lambda s, b, h, q, k: s + array(TABLE)[:, k][2],
    "take": lambda s, b, h, q, k: s + jnp.take(array(TABLE), k, axis=1)[1],
    "take_flat": lambda s, b, h, q, k: s + jnp.take(array(TABLE), k),
    "take_clip": lambda s, b, h, q, k: s + jnp.take(array(TABLE), k, mode="clip"),
    "take_wrap": lambda s, b, h, q, k: s + jnp.take(array(TABLE), k, mode="wrap"),
    "cube": lambda s, b, h, q, k: s + array(CUBE)[b, h, k],
    "cube_transposed": lambda s, b, h, q, k: (
        s + array(CUBE).transpose(2, 0, 1)[k, b, h]
    ),
    "cube_middle": lambda s, b, h, q, k: s + array(CUBE)[1, h, 4:8][2],
    "cube_slice": lambda s, b, h, q, k: s + array(CUBE)[:, ::2, 3:20][b, h, k],
    "dynamic_slice": lambda s, b, h, q, k: (
        s + lax.dynamic_slice(array(CUBE), (b, q, k), (2, 3, 5))[1, 2, 4]
    ),
    "take_along_axis": lambda s, b, h, q, k: (
        s + jnp.take_along_axis(array(TABLE), jnp.full((5, 1), k), 1)[3, 0]
    ),
    "bfloat16": lambda s, b, h, q, k: s + array(SHORT)[h, k],
    "float16": lambda s, b, h, q, k: s + array(HALVES)[k],
    "clipped_distance": lambda s, b, h, q, k: (
        s + array(TABLE)[h % 5, jnp.clip(k - q + 3, 0, 6)]
    ),
    "index_of_uint8": lambda s, b, h, q, k: s + array(SLOPES)[k.astype("uint8")],
    "index_of_int8": lambda s, b, h, q, k: s + array(SLOPES)[k.astype("int8")],
    "index_of_uint32": lambda s, b, h, q, k: s + array(SLOPES)[k.astype("uint32")],
    "two_steps": lambda s, b, h, q, k: s + array(SLOPES)[array(DOCUMENTS)[k]],
    "one_element": lambda s, b, h, q, k: s + array(SLOPES[:1])[k],
    "scaled_table": lambda s, b, h, q, k: s + (array(TABLE) * 2 - 1)[q, k],
    "int_array": lambda s, b, h, q, k: s + array(DOCUMENTS)[k],
    "fill_int": lambda s, b, h, q, k: s + array(DOCUMENTS).at[k].get(mode="fill"),
    "fill_uint8": lambda s, b, h, q, k: s + array(BITS)[1].at[k].get(mode="fill"),
    "fill_value": lambda s, b, h, q, k: (
        s + array(TABLE).at[q, k].get(mode="fill", fill_value=-2.5)
    ),
    "reversed": lambda s, b, h, q, k: s + array(SLOPES)[::-1][h],
}
SCORES |= {
    f"{mode}_{name}": lambda s, b, h, q, k, mode=mode, x=x, i=i: (
        s + array(x).at[i(b, h, q, k)].get(mode=mode)
    )
    for mode in MODES
    for name, x, i in [
        ("vector", SLOPES, lambda b, h, q, k: h),
        ("matrix", TABLE, lambda b, h, q, k: (q, k)),
        ("cube", CUBE, lambda b, h, q, k: (b, h, k)),
    ]
}
SCALE = 0.5
MASKS = {
    "causal": lambda b, h, q, k: q >= k,
    "packed_bytes": lambda b, h, q, k: (array(BITS)[b, k // 8] >> (k % 8) & 1) == 1,
    "packed_little": lambda b, h, q, k: (
        array(BITS)[b, k >> 3] >> (k & 7).astype("uint8") & 1
    ).astype(bool),
    "packed_words": lambda b, h, q, k: (
        (array(WORDS)[q, k // 32] >> (k % 32).astype("uint32") & 1) == 1
    ),
    "documents": lambda b, h, q, k: (
        (array(DOCUMENTS)[q] == array(DOCUMENTS)[k]) & (k <= q)
    ),
    "bools": lambda b, h, q, k: array(SEEN)[h, k],
    "fill_bools": lambda b, h, q, k: array(SEEN).at[h, k].get(mode="fill"),
    "dilated": lambda b, h, q, k: (q - k) % 3 == 0,
    "floor_divide": lambda b, h, q, k: q // 16 == k // 16,
    "floor_divide_far": lambda b, h, q, k: (q * 48271) // 7 * 7 <= (k * 69621) % 1000,
    "divide_far": lambda b, h, q, k: lax.div(q * 48271, 7) % 2 == 0,
    "prefix": lambda b, h, q, k: (k < array(DOCUMENTS)[b]) | (q >= k),
    "never": lambda b, h, q, k: jnp.bool_(False),
}
CASES = {
    **{name: ("score_mod", f) for name, f in SCORES.items()},
    **{f"mask-{name}": ("mask_mod", f) for name, f in MASKS.items()},
}


@pytest.fixture(scope="module")
def compiled():
    return emitted.build_cases(CASES)


@pytest.mark.parametrize("name", CASES)
def test_the_text_computes_what_jax_does(name, compiled):
    hook, function = CASES[name]
    inputs = emitted.inputs_of(hook)
    wanted = emitted.expected(hook, function, inputs)
    text = compiled[name]
    emitted.assert_close(text(hook, *inputs), wanted)
    run = jax.vmap(text.hooks.functions(text.operands)[hook])
    emitted.assert_close(np.asarray(run(*inputs)), wanted)


@pytest.mark.parametrize("name", CASES)
def test_every_read_is_within_its_array(name, compiled):
    """Beside every operand lies what must not be read."""
    hook, _ = CASES[name]
    text, inputs = compiled[name], emitted.inputs_of(hook)
    guarded = []
    for operand in map(np.asarray, text.operands):
        around = np.full(3 * operand.size, 77, operand.dtype)
        around[operand.size : 2 * operand.size] = operand.ravel()
        guarded.append(around[operand.size : 2 * operand.size].reshape(operand.shape))
    once = text(hook, *inputs, operands=guarded)
    for operand in guarded:
        base = operand.base
        base[: operand.size] = 1
        base[2 * operand.size :] = 1
    np.testing.assert_array_equal(text(hook, *inputs, operands=guarded), once)


def test_positions_in_arrays_of_more_than_2_31_elements_take_64_bits():
    # The shape is enough: nothing of this size is made.
    def code(shape, hook):
        traced = []

        def run(x):
            traced.append(emitted.trace("score_mod", lambda *of: hook(x, *of))[0].code)
            return x[(0,) * len(shape)]

        jax.eval_shape(run, jax.ShapeDtypeStruct(shape, jnp.float32))
        return traced[0]

    matrix = code((2**16, 2**16), lambda x, s, b, h, q, k: s + x[q, k])
    assert "load<float>(at, 0, 65536 * int64_t{t" in matrix
    small = code((2**15, 2**15), lambda x, s, b, h, q, k: s + x[q, k])
    assert "int64_t" not in small


@pytest.mark.parametrize(
    ("hook", "reads"),
    [
        (lambda s, b, h, q, k: s + array(SLOPES)[k % 8], True),
        (lambda s, b, h, q, k: s + array(SLOPES)[jnp.where(s > 0, h, 0)], True),
        (lambda s, b, h, q, k: s * k + array(SLOPES)[h] * array(SLOPES)[q % 8], False),
    ],
)
def test_reads_for_every_key_are_known(hook, reads):
    hooks, _ = emitted.trace("score_mod", hook)
    assert ("kReadsForScores = true" in hooks.code) == reads


@pytest.mark.parametrize(
    ("hook", "reads"),
    [
        (lambda b, h, q, k: array(CUBE)[b, q, k] > 0, True),
        (lambda b, h, q, k: array(SLOPES)[q - k] > array(SLOPES)[h], True),
        (lambda b, h, q, k: array(SLOPES)[q] == array(SLOPES)[k], False),
        (lambda b, h, q, k: (q - k < 4) & array(SEEN)[h, k], False),
    ],
)
def test_reads_for_every_pair_are_known(hook, reads):
    hooks, _ = emitted.trace("mask_mod", hook)
    assert ("kReadsForPairs = true" in hooks.code) == reads
