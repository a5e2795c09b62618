# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Hooks as graphs: the equations of their jaxprs, calls inlined, equal ones shared."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxinfer import _compat
from jaxinfer.variant.fold import folded


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """A value. Nodes are created in an order in which they can be computed.

    Attributes:
      order: in which it was created.
      shape: of the value.
      dtype: of the value; no numpy dtype for what is no number.
    """

    order: int
    shape: tuple[int, ...]
    dtype: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Argument(Node):
    """A parameter of a hook, by its name."""

    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class Number(Node):
    """A scalar that the program states."""

    value: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Captured(Node):
    """An array that a hook closes over."""

    value: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """A primitive applied to values.

    Attributes:
      primitive: of JAX.
      params: of the primitive.
      inputs: its operands.
      where: file, line and function of the user's code.
    """

    primitive: Any
    params: Mapping[str, Any]
    inputs: tuple[Node, ...]
    where: str

    def __call__(self, *values: Any) -> Sequence[Any]:
        """Its results for these operands."""
        return _compat.apply_primitive(self.primitive, dict(self.params), values)


@dataclasses.dataclass(frozen=True, eq=False)
class Result(Node):
    """A result of a call, by its number."""

    call: Call
    which: int

    @property
    def name(self) -> str:
        """Of the primitive."""
        return self.call.primitive.name


class Graph:
    """The nodes of all hooks of a variant."""

    def __init__(self):
        self._known: dict[Any, Any] = {}
        self._num_nodes = 0
        self._alive: list[Any] = []  # what identities in _known belong to

    def argument(self, name: str, shape: tuple[int, ...], dtype: Any) -> Argument:
        """The parameter of this name; equal ones of several hooks are one."""
        return self._node(Argument, (name,), shape, np.dtype(dtype))

    def add(
        self, jaxpr: Any, consts: Iterable[Any], inputs: Sequence[Node], where: str = ""
    ) -> list[Node]:
        """Adds a program.

        Args:
          jaxpr: a Jaxpr, not closed.
          consts: of the jaxpr.
          inputs: what its parameters are.
          where: it is called, which stands for lines that are not known.

        Returns:
          Its results.
        """
        of = dict(zip(jaxpr.invars, inputs, strict=True))
        of |= {
            variable: self._captured(value)
            for variable, value in zip(jaxpr.constvars, consts, strict=True)
        }

        def read(atom):
            return self._literal(atom) if _compat.is_literal(atom) else of[atom]

        for equation in jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            inner = _compat.inner_program(equation)
            line = _compat.source_of(equation) or where
            if inner is None:
                results = self._simple(equation, operands)
                results = results or self._call(equation, operands, line)
            else:
                results = self.add(*inner, operands, line)
            of.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _node(self, kind, fields, shape, dtype, key: Any = None):
        key = (kind, fields if key is None else key, shape, dtype)
        if key not in self._known:
            self._known[key] = kind(self._num_nodes, shape, dtype, *fields)
            self._num_nodes += 1
        return self._known[key]

    def _literal(self, atom):
        value = np.asarray(atom.val, atom.aval.dtype)
        if value.ndim:
            return self._captured(atom.val)
        return self._number(value)

    def _number(self, value):
        return self._node(Number, (value,), (), value.dtype, key=value.tobytes())

    def _captured(self, value):
        if isinstance(value, jax.Array):
            identity: Any = id(value)
        else:  # a numpy array, in a new wrapper for every use
            value = np.asarray(value)
            identity = value.__array_interface__["data"], value.strides
        self._alive.append(value)
        shape = tuple(value.shape)
        return self._node(Captured, (value,), shape, value.dtype, key=identity)

    def _simple(self, equation, operands):
        """What is known without computing it on a device, if it is."""
        name, (result, *others) = equation.primitive.name, equation.outvars
        if others or not operands:
            return None
        first, *cases = operands
        if name == "convert_element_type" and first.dtype == result.aval.dtype:
            return [first]
        if name == "ne" and _is_false(cases[0]):
            return [first]
        if name == "select_n" and isinstance(first, Number):
            return [cases[int(first.value)]]
        if all(isinstance(node, Number) for node in operands):
            values = [node.value for node in operands]
            value = folded(name, equation.params, values)
            if value is not None and value.shape == result.aval.shape:
                return [self._number(value)]
        return None

    def _call(self, equation, operands, where):
        key = (equation.primitive, *(node.order for node in operands))
        try:
            key = (*key, frozenset(equation.params.items()))
            hash(key)
        except TypeError:  # a parameter without hash: equal to nothing
            key = object()
        if key not in self._known:
            call = Call(equation.primitive, equation.params, tuple(operands), where)
            self._known[key] = call
        call = self._known[key]
        return [
            self._node(
                Result,
                (call, which),
                tuple(variable.aval.shape),
                variable.aval.dtype,
            )
            for which, variable in enumerate(equation.outvars)
        ]


def _is_false(node: Node) -> bool:
    return isinstance(node, Number) and node.dtype == bool and not node.value


def inputs_of(node: Node) -> tuple[Node, ...]:
    """What a node is computed from."""
    return node.call.inputs if isinstance(node, Result) else ()


def is_named(node: Node, name: str) -> bool:
    """Whether it is that parameter of the hook."""
    return isinstance(node, Argument) and node.name == name


def depends(node: Node, name: str) -> bool:
    """Whether it is computed from that parameter of the hook."""
    return any(is_named(n, name) for n in reachable([node]))


def reachable(roots: Iterable[Node], stop: Iterable[Node] = ()) -> list[Node]:
    """All that the roots are computed from, and the roots, in order.

    Args:
      roots: where to begin.
      stop: nodes behind which nothing is looked for.
    """
    found: set[Node] = set()
    todo, stop = list(roots), set(stop)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += () if node in stop else inputs_of(node)
    return sorted(found, key=lambda node: node.order)


def evaluate(roots: Sequence[Node], known: Mapping[Node, Any]) -> list[Any]:
    """Computes nodes with JAX.

    Args:
      roots: what to compute.
      known: values of arguments, and of any other nodes.

    Returns:
      The value of every root.
    """
    values = dict(known)
    results: dict[Call, Sequence[Any]] = {}
    for node in reachable(roots, known):
        if node in values:
            continue
        if isinstance(node, Result):
            if node.call not in results:
                operands = [values[n] for n in node.call.inputs]
                results[node.call] = node.call(*operands)
            values[node] = results[node.call][node.which]
        else:
            assert isinstance(node, Number | Captured), node
            values[node] = node.value
    return [values[root] for root in roots]
