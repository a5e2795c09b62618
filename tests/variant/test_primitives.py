# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Elementwise primitives: the text, compiled for the host, does as JAX does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from variant import emitted

# ---- floats -----------------------------------------------------------------------

UNARY = {
    name: getattr(lax, name)
    for name in (
        *("abs", "acosh", "asinh", "atan", "cbrt", "ceil", "cos", "cosh", "erf"),
        *("erfc", "exp", "exp2", "expm1", "floor", "log", "log1p", "logistic"),
        *("neg", "rsqrt", "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh"),
        *("stop_gradient",),
    )
}
UNARY |= {
    "is_finite": lambda x: jnp.where(lax.is_finite(1 / x), x, 2.0),
    "asin": lambda x: lax.asin(x / 200),
    "acos": lambda x: lax.acos(x / 200),
    "atanh": lambda x: lax.atanh(x / 200),
    "round_away": lambda x: lax.round(x * 0.5, lax.RoundingMethod.AWAY_FROM_ZERO),
    "round_even": lambda x: lax.round(x * 0.5, lax.RoundingMethod.TO_NEAREST_EVEN),
    "cube": lambda x: x**3,
    "tenth": lambda x: x**10,
    "inverse_square": lambda x: x**-2,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "softplus": jax.nn.softplus,
    "nan_to_num": lambda x: jnp.nan_to_num(x / 0.0),
    "reduce_precision": lambda x: lax.reduce_precision(x * 1e4, 5, 10),
    "reduce_precision_small": lambda x: lax.reduce_precision(x * 1e-6, 5, 10),
    "reduce_mantissa": lambda x: lax.reduce_precision(x, 8, 3),
}
BINARY = {
    "add": lax.add,
    "atan2": lax.atan2,
    "div": lax.div,
    "max": lax.max,
    "min": lax.min,
    "mul": lax.mul,
    "nan_max": lambda x, y: lax.max(jnp.where(x > 3, jnp.nan, x), y),
    "nan_min": lambda x, y: lax.min(x, jnp.where(y > 0, jnp.nan, y)),
    "pow": lambda x, y: lax.pow(jnp.abs(x), y * 0.1),
    "pow_negative": lambda x, y: lax.pow(x, jnp.round(y * 0.2)),
    "pow_int": lambda x, y: lax.pow(x, jnp.int32(y) % 5),
    "rem": lax.rem,
    "mod": jnp.mod,
    "floor_divide": lambda x, y: x // (y + 0.125),
    "hypot": jnp.hypot,
    "clamp": lambda x, y: lax.clamp(-1.0, x * y, 2.5),
    "clamp_nan": lambda x, y: lax.clamp(-1.0, jnp.where(y > 0, jnp.nan, x), 2.5),
    **{
        name: lambda x, y, compare=compare: jnp.where(compare(x, y), x, 2 * y)
        for name, compare in [
            *[("eq", lax.eq), ("ne", lax.ne), ("lt", lax.lt), ("le", lax.le)],
            *[("gt", lax.gt), ("ge", lax.ge)],
        ]
    },
}

# ---- integers ---------------------------------------------------------------------

INTS = ("int8", "int16", "int32", "uint8", "uint16", "uint32")
INT_OPS = {
    "add": lax.add,
    "sub": lax.sub,
    "mul": lax.mul,
    "div": lax.div,
    "rem": lax.rem,
    "and": lax.bitwise_and,
    "or": lax.bitwise_or,
    "xor": lax.bitwise_xor,
    "not": lambda x, y: lax.bitwise_not(x),
    "max": lax.max,
    "min": lax.min,
    "neg": lambda x, y: lax.neg(x),
    "abs": lambda x, y: lax.abs(x) if jnp.issubdtype(x.dtype, jnp.signedinteger) else x,
    "sign": lambda x, y: lax.sign(x),
    "clz": lambda x, y: lax.clz(x),
    "population_count": lambda x, y: lax.population_count(x),
    "shift_left": lax.shift_left,
    "shift_right_logical": lax.shift_right_logical,
    "shift_right_arithmetic": lax.shift_right_arithmetic,
    "shift_far": lambda x, y: lax.shift_left(x, y * 31),
    "clamp": lambda x, y: lax.clamp(x.dtype.type(3), x, x.dtype.type(99)),
    "power": lambda x, y: x**3,
    "lt": lambda x, y: jnp.where(x < y, x, y - 1),
    "select_n": lambda x, y: lax.select_n(jnp.int32(x) & 1 | (jnp.int32(y) & 1), x, y),
    "from_float": lambda x, y: lax.convert_element_type(jnp.float32(x) * 1e3, x.dtype),
}


def of_ints(function, dtype):
    """A mask, so that every bit counts: each bit of the result for some row."""

    def hook(b, h, q_idx, kv_idx):
        # Some near zero and some anywhere; divisors hit 0 and -1.
        x = (q_idx * 48271 + kv_idx).astype(dtype)
        y = (kv_idx % 37 - 2).astype(dtype)
        result = function(x, y)
        wide = result.astype("int32")
        return (wide >> (h & 31) & 1) == 1

    return hook


FLOATS = {
    "from_int8": lambda x: x.astype("int8") + 1.5,
    "from_uint16": lambda x: x.astype("uint16") * 1.5,
    "to_bool": lambda x: jnp.where(x.astype(bool), 1.0, x - 1.0),
    "from_bool": lambda x: (x > 1).astype("float32") * x,
    "bool_ops": lambda x: jnp.where(((x > 1) ^ (x < 3)) | ~(x > 2) & (x < 50), x, 7.0),
    "bool_max": lambda x: jnp.where(lax.max(x > 1, x < -1), x, 7.0),
    "bool_eq": lambda x: jnp.where((x > 1) == (x < 3), x, 7.0),
    "bits": lambda x: lax.bitcast_convert_type(
        lax.bitcast_convert_type(x, "uint32") ^ jnp.uint32(1 << 31), "float32"
    ),
    "bits_of_bfloat16": lambda x: lax.bitcast_convert_type(
        lax.bitcast_convert_type(x.astype("bfloat16"), "int16") + jnp.int16(1),
        "bfloat16",
    ),
    "bits_of_float16": lambda x: lax.bitcast_convert_type(
        lax.bitcast_convert_type(x.astype("float16"), "uint16") + jnp.uint16(1),
        "float16",
    ),
    "huge_to_int": lambda x: (x * 1e9).astype("int32"),
    "nan_to_int": lambda x: (x / 0.0 - x / 0.0).astype("int32"),
    "literals": lambda x: x * 0.1 + 1e-40 - 3e38 + 16777216.0 - (-2.5),
    "infinite": lambda x: jnp.where(x > 1, -jnp.inf, jnp.where(x < 0, jnp.inf, x)),
    "int_literals": lambda x: jnp.int32(-(2**31)) + x.astype("int32"),
    "negative_literal": lambda x: x - -2.0,
    "minus_minus": lambda x: lax.neg(-(x * -1.0)),
    "by_small": lambda x: x / 1e-37,
    "by_three": lambda x: x / 3.0,
    "scaled_tanh": lambda x: -3.0 * jnp.tanh(x * 0.1) + jnp.tanh(x / 7.0) * 2.0,
    "scaled_tanh_of_bfloat16": lambda x: 3.0 * jnp.tanh(x.astype("bfloat16") / 2.0),
    "optimization_barrier": lambda x: lax.optimization_barrier((x, x + 1))[1],
    "nested_jit": lambda x: jax.jit(lambda y: jax.jit(jnp.sin)(y) + y)(x),
    "checkpoint": lambda x: jax.checkpoint(jnp.sin)(x),
    "integer_result": lambda x: x.astype("int32") + 1,
}
SIXTEEN_BITS = {
    f"{name}_{dtype}": lambda x, f=f, dtype=dtype: f(x.astype(dtype), dtype)
    for dtype in ("bfloat16", "float16")
    for name, f in {
        "round": lambda x, _: x,
        "arithmetic": lambda x, d: (x * d_number(d, 1.1) + x) / (x - d_number(d, 3.3)),
        "functions": lambda x, _: jnp.tanh(x) - jnp.sqrt(jnp.abs(x)),
        "tiny": lambda x, d: x * d_number(d, 1e-6),
        "far": lambda x, d: x * d_number(d, 6e4),
        "int": lambda x, d: x.astype("int32").astype(d) * x,
    }.items()
}


def d_number(dtype, value):
    return jnp.dtype(dtype).type(value)


def a_custom_vjp():
    @jax.custom_vjp
    def f(x):
        return jnp.cos(x)

    f.defvjp(lambda x: (f(x), x), lambda x, g: (g,))
    return f


def score(function):
    return lambda score, b, h, q_idx, kv_idx: function(score)


def score_and_index(function):
    return lambda score, b, h, q_idx, kv_idx: function(
        score, (kv_idx % 101).astype("float32") * 0.25 - 9
    )


CASES = {
    **{f"unary-{name}": ("score_mod", score(f)) for name, f in UNARY.items()},
    **{f"binary-{n}": ("score_mod", score_and_index(f)) for n, f in BINARY.items()},
    **{f"float-{name}": ("score_mod", score(f)) for name, f in FLOATS.items()},
    **{f"short-{name}": ("score_mod", score(f)) for name, f in SIXTEEN_BITS.items()},
    **{
        f"{dtype}-{name}": ("mask_mod", of_ints(f, dtype))
        for dtype in INTS
        for name, f in INT_OPS.items()
    },
    "float-custom_vjp": ("score_mod", score(a_custom_vjp())),
}


@pytest.fixture(scope="module")
def compiled():
    return emitted.build_cases(CASES)


@pytest.mark.parametrize("name", CASES)
def test_the_text_computes_what_jax_does(name, compiled):
    hook, function = CASES[name]
    inputs = emitted.inputs_of(hook)
    if name == "float-nan_to_int":
        inputs[0] = np.where(inputs[0] == 0, 1, inputs[0])
    with np.errstate(all="ignore"):
        wanted = emitted.expected(hook, function, inputs)
    emitted.assert_close(compiled[name](hook, *inputs), wanted)


@pytest.mark.parametrize("name", ["float-nested_jit", "unary-silu", "binary-clamp"])
def test_functions_compute_the_same(name, compiled):
    hook, function = CASES[name]
    inputs = emitted.inputs_of(hook)
    run = compiled[name].hooks.functions(compiled[name].operands)[hook]
    wanted = emitted.expected(hook, function, inputs)
    emitted.assert_close(np.asarray(jax.vmap(run)(*inputs)), wanted)


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_64_bits(dtype):
    ops = {name: f for name, f in INT_OPS.items() if name != "from_float"}
    with jax.enable_x64(True):
        hooks = {name: of_ints(f, dtype) for name, f in ops.items()}
        traced = [emitted.trace("mask_mod", f) for f in hooks.values()]
        inputs = emitted.inputs_of("mask_mod")
        wanted = [emitted.expected("mask_mod", f, inputs) for f in hooks.values()]
    for text, result in zip(emitted.build(traced), wanted, strict=True):
        emitted.assert_close(text("mask_mod", *inputs), result)
