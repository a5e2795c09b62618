# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The elementwise primitives of JAX in C++, by the kind of their operands.

Functions are those of csrc/variant.h; what is in no table for a kind, XLA does not do.
"""

import math

import numpy as np

from jaxinfer.variant import dtypes
from jaxinfer.variant.block import Block, Indices
from jaxinfer.variant.graph import Node, Number, Result, is_named

_COMPARED = {
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
}
# As in csrc/variant_math.h or, for what is rare, in the C library.
_OWN = ("exp", "exp2", "log", "log1p", "expm1", "tanh", "sin", "cos", "tan", "sqrt")
_OWN += ("rsqrt", "logistic", "is_finite", "sign")
_C_LIBRARY = ("asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh")
_C_LIBRARY += ("cbrt", "erf", "erfc", "floor", "ceil")
_FLOAT = {
    **_COMPARED,
    **{name: f"{name}({{0}})" for name in _OWN},
    **{name: f"::{name}f({{0}})" for name in _C_LIBRARY},
    "abs": "::fabsf({0})",
    "add": "{0} + {1}",
    "atan2": "::atan2f({0}, {1})",
    "clamp": "clamp({0}, {1}, {2})",
    "div": "divide({0}, {1})",
    "integer_pow": "integer_pow<{y}>({0})",
    "max": "maximum({0}, {1})",
    "min": "minimum({0}, {1})",
    "mul": "{0} * {1}",
    "neg": "-({0})",
    "pow": "pow({0}, {1})",
    "rem": "remainder({0}, {1})",
    "square": "{0} * {0}",
    "sub": "{0} - {1}",
}
_INT = {
    **_COMPARED,
    "abs": "absolute({0})",
    "add": "add({0}, {1})",
    "and": "{0} & {1}",
    "clamp": "clamp({0}, {1}, {2})",
    "clz": "count_leading_zeros({0})",
    "div": "quotient({0}, {1})",
    "integer_pow": "integer_pow<{y}>({0})",
    "max": "maximum({0}, {1})",
    "min": "minimum({0}, {1})",
    "mul": "multiply({0}, {1})",
    "neg": "negate({0})",
    "not": "~{0}",
    "or": "{0} | {1}",
    "population_count": "population_count({0})",
    "rem": "remainder({0}, {1})",
    "shift_left": "shift_left({0}, {1})",
    "shift_right_arithmetic": "shift_right_arithmetic({0}, {1})",
    "shift_right_logical": "shift_right_logical({0}, {1})",
    "sign": "sign({0})",
    "square": "multiply({0}, {0})",
    "sub": "subtract({0}, {1})",
    "xor": "{0} ^ {1}",
}
_BOOL = {
    **_COMPARED,
    "and": "{0} && {1}",
    "clamp": "clamp({0}, {1}, {2})",
    "max": "{0} || {1}",
    "min": "{0} && {1}",
    "not": "!{0}",
    "or": "{0} || {1}",
    "xor": "{0} != {1}",
}
_TABLES = {"float": _FLOAT, "int": _INT, "bool": _BOOL}


def elements(block: Block, node: Result, indices: Indices) -> list[str]:
    """That element of every operand; a scalar goes with every element."""
    inputs = node.call.inputs
    return [block.at(n, indices if n.shape else ()) for n in inputs]


def _elementwise(block: Block, node: Result, indices: Indices) -> str:
    kinds = [dtypes.kind(n.dtype) for n in node.call.inputs if _has_c_type(n)]
    template = _TABLES[kinds[0]].get(node.name) if kinds else None
    values = elements(block, node, indices)  # raises for dtypes that are not known
    if template is None:
        block.refuse(node, f"of {node.call.inputs[0].dtype.name} is not supported")
    if node.name == "pow" and kinds[1] != "float":
        values[1] = f"static_cast<float>({values[1]})"
    if node.name == "div" and _has_reciprocal(node.call.inputs[1]):
        template = "divide_by({0}, {1})"
    expression = template.format(*values, **_power(node))
    if dtypes.kind(node.dtype) == "float":
        expression = dtypes.rounded(node.dtype, expression)
    return block.assign(node.dtype, expression)


def _has_c_type(node: Node) -> bool:
    return node.dtype.name in dtypes.C_TYPES


def _power(node: Result) -> dict[str, int]:
    return {"y": int(node.call.params["y"])} if node.name == "integer_pow" else {}


def _has_reciprocal(node: Node) -> bool:
    """A float literal, and 1 / literal neither overflows nor is denormal."""
    if not isinstance(node, Number) or dtypes.kind(node.dtype) != "float":
        return False
    size = abs(float(node.value))
    return 2.0**-126 <= size <= 2.0**126 and math.isfinite(size)


# Up to here tanh of a SmallScore is meant (csrc/variant.h).
_SMALL_ANGLE = 0.5


def soft_cap(result: Node) -> tuple[float, float] | None:
    """(size, factor) of a score_mod that is size * tanh(factor * score); else None."""
    source, size = _scaled(result)
    if not (isinstance(source, Result) and source.name == "tanh"):
        return None
    source, factor = _scaled(source.call.inputs[0])
    is_cap = is_named(source, "score") and size > 0 and _has_powers(factor, size)
    return (size, factor) if is_cap else None


def _has_powers(factor: float, size: float) -> bool:
    """Whether the powers of these that polynomials of scores have are floats."""
    return 2.0**-20 <= abs(factor) <= 2.0**10 and abs(size) <= 2.0**20


def _multiply(block: Block, node: Result, indices: Indices) -> str:
    source, size = _scaled(node)
    if isinstance(source, Result) and source.name == "tanh":
        return _tanh(block, source, indices, size)
    return _elementwise(block, node, indices)


def _tanh(block: Block, node: Result, indices: Indices, size: float = 1.0) -> str:
    """size * tanh(factor * x), where numbers cost nothing: cap * tanh(score / cap)."""
    if node.dtype.name != "float32":
        return _elementwise(block, node, indices)
    source, factor = _scaled(node.call.inputs[0])
    arguments = [block.at(source, indices if source.shape else ())]
    if is_named(source, "score"):
        if _has_powers(factor, size):
            block.bound_score(_SMALL_ANGLE / abs(factor))
        else:
            arguments = [f"static_cast<float>({arguments[0]})"]
    if (factor, size) != (1.0, 1.0):
        arguments += [dtypes.literal(number, node.dtype) for number in (factor, size)]
    return block.assign(node.dtype, f"tanh({', '.join(arguments)})")


def _scaled(node: Node) -> tuple[Node, float]:
    """(x, number) of a float32 x times a number, or over it; else (node, 1)."""
    if (
        isinstance(node, Result)
        and node.dtype.name == "float32"
        and node.name in ("mul", "div")
    ):
        x, by = node.call.inputs
        if node.name == "mul" and isinstance(x, Number):
            x, by = by, x
        if isinstance(by, Number) and _has_reciprocal(by):
            number = float(by.value)
            return x, float(np.float32(number if node.name == "mul" else 1.0 / number))
    return node, 1.0


def _select_n(block: Block, node: Result, indices: Indices) -> str:
    which, *cases = elements(block, node, indices)
    if dtypes.kind(node.call.inputs[0].dtype) == "bool":
        no, yes = cases
        return block.assign(node.dtype, f"{which} ? {yes} : {no}")
    chosen = cases[-1]
    for i in reversed(range(len(cases) - 1)):
        chosen = block.assign(node.dtype, f"{which} <= {i} ? {cases[i]} : {chosen}")
    return chosen


def _round(block: Block, node: Result, indices: Indices) -> str:
    (value,) = elements(block, node, indices)
    # lax.RoundingMethod: away from zero, or to even.
    name = "rintf" if int(node.call.params["rounding_method"]) else "roundf"
    return block.assign(node.dtype, dtypes.rounded(node.dtype, f"::{name}({value})"))


def convert(block: Block, value: str, source, target) -> str:
    """A value of one dtype in another one.

    Args:
      block: where to write.
      value: variable or literal.
      source: its dtype.
      target: the dtype wanted.
    """
    if source == target:
        return value
    kinds = dtypes.kind(source), dtypes.kind(target)
    if kinds == ("float", "float"):
        if target.name == "float32":
            return value
        return block.assign(target, dtypes.rounded(target, value))
    c_type = dtypes.C_TYPES[target.name]
    if kinds[1] == "bool":
        return block.assign(target, f"{value} != 0")
    if kinds[0] == "float":
        return block.assign(target, f"to_int<{c_type}>({value})")
    cast = f"static_cast<{c_type}>({value})"
    return block.assign(
        target, dtypes.rounded(target, cast) if kinds[1] == "float" else cast
    )


def _convert(block: Block, node: Result, indices: Indices) -> str:
    (value,) = elements(block, node, indices)
    return convert(block, value, node.call.inputs[0].dtype, node.dtype)


_FROM_BITS = {"float16": "half_from_bits", "bfloat16": "bfloat16_from_bits"}
_TO_BITS = {"float16": "half_bits", "bfloat16": "bfloat16_bits"}


def _bitcast(block: Block, node: Result, indices: Indices) -> str:
    source = node.call.inputs[0].dtype
    if source.itemsize != node.dtype.itemsize:
        block.refuse(node, f"from {source} to {node.dtype} is not of one width")
    (value,) = elements(block, node, indices)
    if source == node.dtype:
        return value
    if source.name in _TO_BITS:
        value, source = f"{_TO_BITS[source.name]}({value})", np.dtype("uint16")
    if node.dtype.name in _FROM_BITS:
        value = f"{_FROM_BITS[node.dtype.name]}(static_cast<uint16_t>({value}))"
    else:
        value = f"same_bits<{dtypes.C_TYPES[node.dtype.name]}>({value})"
    return block.assign(node.dtype, value)


def _reduce_precision(block: Block, node: Result, indices: Indices) -> str:
    (value,) = elements(block, node, indices)
    bits = (int(node.call.params[f"{part}_bits"]) for part in ("exponent", "mantissa"))
    expression = f"reduce_precision<{', '.join(map(str, bits))}>({value})"
    return block.assign(node.dtype, dtypes.rounded(node.dtype, expression))


def _same(block: Block, node: Result, indices: Indices) -> str:
    return block.at(node.call.inputs[node.which], indices)


def _stop_gradient(block: Block, node: Result, indices: Indices) -> str:
    # Equal texts must have equal derivatives.
    (value,) = elements(block, node, indices)
    return block.assign(node.dtype, f"stop_gradient({value})")


RULES = {
    **{name: _elementwise for table in _TABLES.values() for name in table},
    "bitcast_convert_type": _bitcast,
    "convert_element_type": _convert,
    "copy": _same,
    "copy_p": _same,
    "mul": _multiply,
    "optimization_barrier": _same,
    "pcast": _same,
    "pvary": _same,
    "reduce_precision": _reduce_precision,
    "round": _round,
    "select_n": _select_n,
    "stop_gradient": _stop_gradient,
    "tanh": _tanh,
}
