# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""What hooks need not compute for every score: that which no parameter changes."""

from collections.abc import Iterable

from jaxinfer.variant.dtypes import C_TYPES
from jaxinfer.variant.graph import (
    Argument,
    Captured,
    Node,
    Number,
    Result,
    inputs_of,
    reachable,
)

# One element of these is one element of an operand: better read there.
_VIEWS = {
    *("broadcast_in_dim", "copy", "expand_dims", "reshape", "rev", "slice"),
    *("squeeze", "stop_gradient", "transpose"),
}
# Cheaper to compute again than to read.
_CHEAP = _VIEWS | {
    *("abs", "add", "and", "convert_element_type", "eq", "ge", "gt", "iota", "le"),
    *("lt", "max", "min", "mul", "ne", "neg", "not", "or", "select_n", "sub", "xor"),
    *("shift_left", "shift_right_arithmetic", "shift_right_logical"),
}
# Of integers, by a number.
_CHEAP_BY_A_NUMBER = {"div", "rem"}


def operand_nodes(roots: Iterable[Node]) -> list[Node]:
    """What device code reads from memory: arrays closed over, and what is hoisted.

    Args:
      roots: the results of all hooks.

    Returns:
      Nodes that depend on no argument, in order. Everything but literals that is
      computed from no argument is computed from these by cheap operations.
    """
    varies: set[Node] = set()
    is_costly: set[Node] = set()
    for node in reachable(roots):
        inputs = inputs_of(node)
        if isinstance(node, Argument) or any(n in varies for n in inputs):
            varies.add(node)
        elif any(n in is_costly for n in inputs) or not _is_cheap(node):
            is_costly.add(node)

    found: set[Node] = set()
    seen: set[Node] = set()
    todo = list(roots)
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        is_view = isinstance(node, Result) and node.name in _VIEWS
        if isinstance(node, Captured) or (node in is_costly and not is_view):
            found.add(node)
        else:
            todo += inputs_of(node)
    return sorted(found, key=lambda node: node.order)


def _is_cheap(node: Node) -> bool:
    if not isinstance(node, Result):
        return True
    inputs = inputs_of(node)
    # Such as float64: hoisted with the conversion to what device code knows.
    if any(n.dtype.name not in C_TYPES for n in inputs):
        return False
    if node.name in _CHEAP_BY_A_NUMBER:
        return node.dtype.kind in "iu" and isinstance(inputs[1], Number)
    return node.name in _CHEAP
