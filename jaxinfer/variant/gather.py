# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The primitives of JAX that read where a value says. Never out of bounds."""

import numpy as np

from jaxinfer.variant import dtypes
from jaxinfer.variant.block import Block, Indices
from jaxinfer.variant.graph import Node, Number, Result, depends, reachable
from jaxinfer.variant.index import Index


def _start(block: Block, value: str, node: Node, last: int) -> Index:
    """A value as an index in [0, last]."""
    if isinstance(node, Number):
        return Index.number(min(max(int(node.value), 0), last))
    return block.index(f"clamp_index({value}, {_limit(last)})", last)


def _limit(last: int) -> str:
    return str(last) if last < 2**31 else f"int64_t{{{last}}}"


def _dynamic_slice(block: Block, node: Result, indices: Indices) -> str:
    source, *starts = node.call.inputs
    sizes = node.call.params["slice_sizes"]
    moved = []
    for start, index, size, part in zip(
        starts, indices, source.shape, sizes, strict=True
    ):
        last = size - part
        first = _start(block, block.at(start), start, last) if last else 0
        moved.append(index + first)
    return block.at(source, tuple(moved))


def _gather(block: Block, node: Result, indices: Indices) -> str:
    source, starts = node.call.inputs
    numbers = node.call.params["dimension_numbers"]
    offset_axes = numbers.offset_dims
    offsets = iter([indices[axis] for axis in offset_axes])
    batch = [index for axis, index in enumerate(indices) if axis not in offset_axes]
    # Axes of which one element is taken have no axis in the result.
    single = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    moved = [
        Index.number(0) if axis in single else next(offsets)
        for axis in range(len(source.shape))
    ]
    for axis, start_axis in zip(
        numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True
    ):
        moved[axis] = batch[start_axis]
    mode = getattr(node.call.params["mode"], "name", None)
    inside = []
    for k, axis in enumerate(numbers.start_index_map):
        last = source.shape[axis] - node.call.params["slice_sizes"][axis]
        start = block.at(starts, (*batch, Index.number(k)))
        if mode == "FILL_OR_DROP":
            inside.append(f"in_range({start}, {_limit(last)})")
        if last:
            moved[axis] = moved[axis] + _start(block, start, starts, last)
    value = block.at(source, tuple(moved))
    if not inside:
        return value
    fill = node.call.params["fill_value"]
    fill = dtypes.fill_value(node.dtype) if fill is None else fill
    is_inside = block.assign(np.dtype(bool), " && ".join(inside))
    literal = dtypes.literal(fill, node.dtype)
    return block.assign(node.dtype, f"{is_inside} ? {value} : {literal}")


RULES = {"dynamic_slice": _dynamic_slice, "gather": _gather}


def _reads(result: Node) -> list[Node]:
    nodes = reachable([result])
    return [n for n in nodes if isinstance(n, Result) and n.name in RULES]


def reads_for_scores(result: Node) -> bool:
    """Whether a score_mod reads something else for every key."""
    reads = _reads(result)
    return any(depends(n, name) for n in reads for name in ("score", "kv_idx"))


def reads_for_pairs(result: Node) -> bool:
    """Whether a mask_mod reads something else for every pair of a query and a key."""
    reads = _reads(result)
    return any(depends(n, "q_idx") and depends(n, "kv_idx") for n in reads)
