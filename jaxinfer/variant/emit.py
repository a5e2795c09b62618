# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Struct Variant: the text that stands before a kernel's source."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxinfer.variant import columns, dtypes, gather, primitives, shapes
from jaxinfer.variant.block import Block
from jaxinfer.variant.graph import Argument, Node
from jaxinfer.variant.index import Index

RULES = {**primitives.RULES, **shapes.RULES, **gather.RULES}


def render(
    parameters: Mapping[str, Sequence[Argument]],
    results: Mapping[str, Node],
    operands: Sequence[Node],
    constants: Sequence[str] = (),
) -> str:
    """Writes the hooks in C++.

    Args:
      parameters: hook -> its parameters; the first may be a vector.
      results: hook -> what it computes: a scalar, or a vector of that shape.
      operands: what is read from memory.
      constants: members of the struct, beside those that name the hooks.

    Returns:
      The text, which includes csrc/variant.h. Its comments tell all shapes: equal texts
      are equal functions.

    Raises:
      NotImplementedError: for what device code cannot do.
    """
    numbers = {node: i for i, node in enumerate(operands)}
    lines = ['#include "csrc/variant.h"', "#define JAXINFER_VARIANT"]
    lines += ["namespace jaxinfer {"]
    lines += [f"// Operand {i}: {_type(node)}" for node, i in numbers.items()]
    lines += ["struct Variant : NoVariant {"]
    for hook in results:
        name = "".join(part.title() for part in hook.split("_"))
        lines += [f"  static constexpr bool kHas{name} = true;"]
    lines += [f"  static constexpr {constant};" for constant in constants]
    for hook, result in results.items():
        lines += _hook(hook, parameters[hook], result, numbers)
        if hook == "score_mod":
            lines += _soft_cap(result)
            if gather.reads_for_scores(result):
                lines += ["", "  static constexpr bool kReadsForScores = true;"]
            lines += _line(parameters[hook], result, numbers)
        if hook == "mask_mod" and gather.reads_for_pairs(result):
            lines += ["", "  static constexpr bool kReadsForPairs = true;"]
    lines += ["};", "}  // namespace jaxinfer"]
    return "\n".join([*lines, ""])


def _hook(
    hook: str,
    parameters: Sequence[Argument],
    result: Node,
    operands: Mapping[Node, int],
) -> list[str]:
    """One member function."""
    is_vector = bool(parameters[0].shape)
    block = Block(hook, operands, RULES)
    indices = (Index.variable("i", 0, result.shape[0] - 1),) if is_vector else ()
    if indices and indices[0].value is not None:
        indices = (Index.number(0),)
    value = block.at(result, indices)
    dtype = np.dtype(bool if hook == "mask_mod" else np.float32)
    value = primitives.convert(block, value, result.dtype, dtype)

    declared = {
        node.name: f"{dtypes.C_TYPES[node.dtype.name]} {node.name}"
        for node in parameters
        if not node.shape
    }
    body, lines = block.body(value), [""]
    if is_vector:
        lines += [f"// vector: {_type(parameters[0])}", "template <typename Vector>"]
        declared = {"vector": "const Vector& vector", **declared, "i": "int i"}
    if block.small_scores is not None:
        size = dtypes.literal(np.float32(block.small_scores), np.dtype(np.float32))
        lines = [f"static constexpr float kSmallScores = {size};", *lines]
        lines += ["template <typename Score>"]
        declared["score"] = "Score score"
    head = ", ".join(["const VariantOperands& at", *declared.values()])
    lines += [f"JAXINFER_HOOK {dtypes.C_TYPES[dtype.name]} {hook}({head}) {{"]
    lines += [*(f"  {line}" for line in body), "}"]
    return [f"  {line}".rstrip() for line in lines]


def _soft_cap(result: Node) -> list[str]:
    """What kernels know a soft cap by."""
    cap = primitives.soft_cap(result)
    if cap is None:
        return []
    size, factor = (dtypes.literal(number, np.dtype(np.float32)) for number in cap)
    return ["", f"  static constexpr SoftCap kSoftCap = {{{size}, {factor}}};"]


def _line(
    parameters: Sequence[Argument], result: Node, operands: Mapping[Node, int]
) -> list[str]:
    """What a score_mod adds to its score, where that is a line; else nothing."""
    added = columns.added_line(result)
    if added is None:
        return []
    block = Block("score_mod", operands, RULES)
    base, slope = block.at(added), columns.slope(block, added)
    if slope is None:
        return []
    indices = ", ".join(f"int {node.name}" for node in parameters[1:])
    head = f"JAXINFER_HOOK Line line_mod(const VariantOperands& at, {indices}) {{"
    body = block.body(f"{{{base}, {slope}}}")
    lines = ["", "static constexpr bool kAddsLine = true;", head]
    lines += [*(f"  {line}" for line in body), "}"]
    return [f"  {line}".rstrip() for line in lines]


def _type(node: Node) -> str:
    return f"{node.dtype.name}[{', '.join(map(str, node.shape))}]"
