# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The primitives of JAX that move elements: where an element comes from."""

import itertools

from jaxinfer.variant.block import Block, Indices
from jaxinfer.variant.graph import Node, Result
from jaxinfer.variant.index import Index
from jaxinfer.variant.primitives import convert


def _iota(block: Block, node: Result, indices: Indices) -> str:
    index = indices[int(node.call.params["dimension"])]
    return convert(block, index.text(), _INT32, node.dtype)


class _Int32:
    name = "int32"


_INT32 = _Int32()


def _broadcast_in_dim(block: Block, node: Result, indices: Indices) -> str:
    source = node.call.inputs[0]
    axes = node.call.params["broadcast_dimensions"]
    moved = [
        Index.number(0) if size == 1 else indices[axis]
        for size, axis in zip(source.shape, axes, strict=True)
    ]
    return block.at(source, tuple(moved))


def _reshape(block: Block, node: Result, indices: Indices) -> str:
    if node.call.params.get("dimensions") is not None:
        block.refuse(node, "with dimensions is not supported")
    source = node.call.inputs[0]
    position = Index.number(0)
    for size, index in zip(node.shape, indices, strict=True):
        position = position * size + index
    moved = []
    for size in reversed(source.shape):
        position, rest = block.divide(position, size)
        moved.append(rest)
    return block.at(source, tuple(reversed(moved)))


def _squeeze(block: Block, node: Result, indices: Indices) -> str:
    source = node.call.inputs[0]
    dropped = {axis % len(source.shape) for axis in node.call.params["dimensions"]}
    rest = iter(indices)
    axes = range(len(source.shape))
    moved = [Index.number(0) if axis in dropped else next(rest) for axis in axes]
    return block.at(source, tuple(moved))


def _expand_dims(block: Block, node: Result, indices: Indices) -> str:
    added = {axis % len(indices) for axis in node.call.params["dimensions"]}
    moved = [index for axis, index in enumerate(indices) if axis not in added]
    return block.at(node.call.inputs[0], tuple(moved))


def _transpose(block: Block, node: Result, indices: Indices) -> str:
    moved = [Index.number(0)] * len(indices)
    for axis, index in zip(node.call.params["permutation"], indices, strict=True):
        moved[axis] = index
    return block.at(node.call.inputs[0], tuple(moved))


def _rev(block: Block, node: Result, indices: Indices) -> str:
    turned = node.call.params["dimensions"]
    moved = [
        index * -1 + (size - 1) if axis in turned else index
        for axis, (index, size) in enumerate(zip(indices, node.shape, strict=True))
    ]
    return block.at(node.call.inputs[0], tuple(moved))


def _slice(block: Block, node: Result, indices: Indices) -> str:
    starts = node.call.params["start_indices"]
    strides = node.call.params["strides"] or (1,) * len(starts)
    moved = [
        index * int(stride) + int(start)
        for index, start, stride in zip(indices, starts, strides, strict=True)
    ]
    return block.at(node.call.inputs[0], tuple(moved))


def _split(block: Block, node: Result, indices: Indices) -> str:
    axis, sizes = node.call.params["axis"], node.call.params["sizes"]
    moved = list(indices)
    moved[axis] = moved[axis] + int(sum(sizes[: node.which]))
    return block.at(node.call.inputs[0], tuple(moved))


def _tile(block: Block, node: Result, indices: Indices) -> str:
    source = node.call.inputs[0]
    moved = [
        block.divide(index, size)[1]
        for index, size in zip(indices, source.shape, strict=True)
    ]
    return block.at(source, tuple(moved))


def _pieces(
    block: Block,
    node: Result,
    index: Index,
    pieces: list[tuple[int, int, Node]],
    element,
) -> str:
    """The element of that piece in which an index lies.

    Args:
      block: where to write.
      node: what the pieces make up.
      index: into all of them.
      pieces: (begin, end, array), in order and without gaps.
      element: (array, index relative to begin) -> variable or literal.
    """
    pieces = [p for p in pieces if p[0] <= index.high and index.low < p[1]]
    (begin, end, piece), *others = pieces
    inside = index.within(begin, end - 1)
    if index.value is not None:
        inside = index
    if not others:
        return element(piece, inside + -begin)
    return block.choose(
        node.dtype,
        f"{index.text()} < {end}",
        lambda: element(piece, inside + -begin),
        lambda: _pieces(block, node, index.within(end, index.high), others, element),
    )


def _concatenate(block: Block, node: Result, indices: Indices) -> str:
    axis = node.call.params["dimension"]
    ends = itertools.accumulate(n.shape[axis] for n in node.call.inputs)
    pieces = [
        (end - n.shape[axis], end, n)
        for n, end in zip(node.call.inputs, ends, strict=True)
    ]

    def element(piece, index):
        return block.at(piece, (*indices[:axis], index, *indices[axis + 1 :]))

    return _pieces(block, node, indices[axis], pieces, element)


def _stack(block: Block, node: Result, indices: Indices) -> str:
    axis = node.call.params["axis"] % len(indices)
    pieces = [(i, i + 1, n) for i, n in enumerate(node.call.inputs)]

    def element(piece, _):
        return block.at(piece, (*indices[:axis], *indices[axis + 1 :]))

    return _pieces(block, node, indices[axis], pieces, element)


def _pad(block: Block, node: Result, indices: Indices) -> str:
    source, padding = node.call.inputs
    config = node.call.params["padding_config"]
    if any(interior for _, _, interior in config):
        block.refuse(node, "with interior padding is not supported")
    moved: list[Index] = []
    conditions = []
    for index, size, (low, _, _) in zip(indices, source.shape, config, strict=True):
        inner = index + -int(low)
        if inner.high < 0 or inner.low >= size:
            return block.at(padding)
        conditions += [f"{inner.text()} >= 0"] * (inner.low < 0)
        conditions += [f"{inner.text()} < {size}"] * (inner.high >= size)
        moved.append(inner if inner.value is not None else inner.within(0, size - 1))
    if not conditions:
        return block.at(source, tuple(moved))
    return block.choose(
        node.dtype,
        " && ".join(conditions),
        lambda: block.at(source, tuple(moved)),
        lambda: block.at(padding),
    )


RULES = {
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": _concatenate,
    "expand_dims": _expand_dims,
    "iota": _iota,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _rev,
    "slice": _slice,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
}
