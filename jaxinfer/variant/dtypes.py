# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""How values of JAX's dtypes are written in C++."""

import math
from typing import Any

import numpy as np

# Of a value in a variable. Those of 16 bits are floats that are rounded after every
# operation.
C_TYPES = {
    "float32": "float",
    "float16": "float",
    "bfloat16": "float",
    "bool": "bool",
    "int8": "int8_t",
    "int16": "int16_t",
    "int32": "int",
    "int64": "int64_t",
    "uint8": "uint8_t",
    "uint16": "uint16_t",
    "uint32": "uint32_t",
    "uint64": "uint64_t",
}
_ROUNDED = {"float16": "round_to_half", "bfloat16": "round_to_bfloat16"}
_LOADS = {
    "float16": "load_half",
    "bfloat16": "load_bfloat16",
    "bool": "load_bool",
}


def kind(dtype: Any) -> str:
    """What arithmetic is done with it: "float", "int" or "bool"."""
    if dtype.name == "bool":
        return "bool"
    return "float" if C_TYPES[dtype.name] == "float" else "int"


def rounded(dtype: Any, expression: str) -> str:
    """A float as a value of the dtype."""
    rounding = _ROUNDED.get(dtype.name)
    return f"{rounding}({expression})" if rounding else expression


def load(dtype: Any, operand: int, index: str) -> str:
    """Element `index` of an operand."""
    function = _LOADS.get(dtype.name, f"load<{C_TYPES[dtype.name]}>")
    return f"{function}(at, {operand}, {index})"


def literal(value: Any, dtype: Any) -> str:
    """A number, exactly."""
    name = dtype.name
    if name == "bool":
        return str(bool(value)).lower()
    if kind(dtype) == "float":
        return _float_literal(float(value))
    number = int(value)
    if name == "int32":
        return str(number) if number > -(2**31) else f"({number + 1} - 1)"
    if name == "uint32":
        return f"{number}u"
    if name == "int64" and number == -(2**63):
        return f"(int64_t{{{number + 1}}} - 1)"
    suffix = "u" if name == "uint64" else ""
    return f"{C_TYPES[name]}{{{number}{suffix}}}"


def _float_literal(value: float) -> str:
    if math.isnan(value):
        return "not_a_number()"
    if math.isinf(value):
        return "infinity()" if value > 0 else "-infinity()"
    if value.is_integer() and abs(value) < 2**24:
        return f"{value:.1f}f"
    mantissa, _, exponent = value.hex().partition("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{int(exponent)}f"


def fill_value(dtype: Any) -> Any:
    """What a gather gives out of bounds, unless it says otherwise."""
    if kind(dtype) == "float":
        return math.nan
    if kind(dtype) == "bool":
        return True
    limits = np.iinfo(dtype)
    return limits.min if limits.min < 0 else limits.max
