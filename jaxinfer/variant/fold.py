# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Arithmetic of numbers that a program states, as jnp's // and % are full of."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Of integers and bools, where numpy does as XLA does.
_EXACT = {
    "add": np.add,
    "and": np.bitwise_and,
    "eq": np.equal,
    "ge": np.greater_equal,
    "gt": np.greater,
    "le": np.less_equal,
    "lt": np.less,
    "mul": np.multiply,
    "ne": np.not_equal,
    "or": np.bitwise_or,
    "sign": np.sign,
    "sub": np.subtract,
}


def folded(
    name: str, params: Mapping[str, Any], values: Sequence[np.ndarray]
) -> np.ndarray | None:
    """The result of a primitive if it is exact on every machine, else None.

    Args:
      name: of the primitive.
      params: of the primitive.
      values: its operands, numbers of shape [].
    """
    are_whole = all(value.dtype.kind in "biu" for value in values)
    if name == "convert_element_type":
        dtype = np.dtype(params["new_dtype"])
        is_exact = are_whole and (dtype.kind in "biu" or dtype == np.float32)
        return values[0].astype(dtype) if is_exact else None
    if not are_whole or name not in _EXACT:
        return None
    # Of arrays: of scalars, numpy warns when they wrap.
    return _EXACT[name](*(value.reshape(1) for value in values)).reshape(())
