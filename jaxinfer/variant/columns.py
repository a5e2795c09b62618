# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Scores to which a line is added: base + slope * kv_idx, as ALiBi does.

Kernels then compute neither the distance of each score nor its float, which takes a GPU
as long as an exponential, but two sums of products.
"""

from jaxinfer.variant.block import Block
from jaxinfer.variant.graph import Node, Result, depends, inputs_of, is_named

_NONE, _ONE = "0.0f", "1.0f"


def added_line(result: Node) -> Node | None:
    """What a score_mod adds to its score, if that alone is all it does with the score.

    Args:
      result: of the hook.

    Returns:
      A float32 that does not depend on the score; None for other hooks.
    """
    if not (isinstance(result, Result) and result.name == "add"):
        return None
    inputs = inputs_of(result)
    scores = [is_named(node, "score") for node in inputs]
    if result.dtype.name != "float32" or scores.count(True) != 1:
        return None
    rest = inputs[scores.index(False)]
    return None if depends(rest, "score") else rest


def slope(block: Block, node: Node) -> str | None:
    """By how much a value grows from one key to the next, where all steps are equal.

    Args:
      block: where to write what is needed for it.
      node: the value.

    Returns:
      C++ of a float; None if steps are not equal, or not known to be.
    """
    if node.shape or not depends(node, "kv_idx"):
        return None if node.shape else _NONE
    if is_named(node, "kv_idx"):
        return _ONE
    if not isinstance(node, Result) or node.dtype.name not in ("int32", "float32"):
        return None
    inputs = inputs_of(node)
    if node.name == "mul":
        return _of_product(block, *inputs)
    if node.name not in ("add", "sub", "neg", "convert_element_type"):
        return None
    steps = [slope(block, n) for n in inputs]
    if None in steps:
        return None
    if node.name == "convert_element_type":
        return steps[0] if inputs[0].dtype.name == "int32" else None
    if node.name == "neg":
        return f"-{steps[0]}"
    first, second = steps
    if second == _NONE:
        return first
    sign = "+" if node.name == "add" else "-"
    return f"({'' if first == _NONE else first} {sign} {second})"


def _of_product(block: Block, x: Node, y: Node) -> str | None:
    if depends(x, "kv_idx"):
        x, y = y, x
    step = slope(block, y)
    if step is None or depends(x, "kv_idx"):
        return None
    factor = block.at(x)
    if x.dtype.name != "float32":
        factor = f"static_cast<float>({factor})"
    return factor if step == _ONE else f"({factor} * {step})"
