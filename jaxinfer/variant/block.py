# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The body of one hook in C++: values of a graph, one statement each."""

import re
from collections.abc import Callable, Mapping
from typing import NoReturn

from jaxinfer.variant import dtypes
from jaxinfer.variant.graph import Argument, Node, Number, Result
from jaxinfer.variant.index import Index

Indices = tuple[Index, ...]
_NAME = re.compile(r"\bt\d+\b")
_DECLARED = re.compile(r" *const \w+ (t\d+) = ")


class Block:
    """Writes statements. A value that is asked for twice is computed once.

    Attributes:
      hook: name of the hook, for messages.
      small_scores: None, or up to which size of a score there is a faster function.
    """

    def __init__(
        self, hook: str, operands: Mapping[Node, int], rules: Mapping[str, Callable]
    ):
        """Begins a body.

        Args:
          hook: its name.
          operands: node -> number of the operand that holds it.
          rules: name of a primitive -> (block, node, indices) -> expression of the
            element, a variable or a literal.
        """
        self.hook = hook
        self.small_scores: float | None = None
        self._lines: list[str] = []
        self._operands = operands
        self._rules = rules
        self._num_names = 0
        self._known: list[dict[object, str]] = [{}]  # one for every open scope

    def at(self, node: Node, indices: Indices = ()) -> str:
        """One element, as a variable or a literal.

        Args:
          node: the array.
          indices: of the element, one for every axis, within the shape.
        """
        if node.dtype.name not in dtypes.C_TYPES:
            self._refuse_dtype(node)
        if isinstance(node, Number):
            return dtypes.literal(node.value, node.dtype)
        key = (node.order, *(index.text() for index in indices))
        for known in self._known:
            if key in known:
                return known[key]
        text = self._element(node, indices)
        self._known[-1][key] = text
        return text

    def assign(self, dtype, expression: str) -> str:
        """Declares a variable with this value."""
        return self._declare(f"const {dtypes.C_TYPES[dtype.name]} ", expression)

    def index(self, expression: str, last: int) -> Index:
        """Declares an index in [0, last] with this value."""
        if last == 0:
            return Index.number(0)
        kind = "const int " if last < 2**31 else "const int64_t "
        key = (kind, expression)
        for known in self._known:
            if key in known:
                return Index.variable(known[key], 0, last)
        name = self._known[-1][key] = self._declare(kind, expression)
        return Index.variable(name, 0, last)

    def divide(self, index: Index, size: int) -> tuple[Index, Index]:
        """(index // size, index % size), of an index that is not negative."""
        if known := index.split(size):
            return known
        text = index.text()
        text = f"({text})" if " " in text else text
        quotient = self.index(f"{text} / {size}", index.high // size)
        rest = self.index(f"{text} % {size}", size - 1)
        product = (size, f"{text} - {rest.text()}")
        return Index.variable(quotient.text(), 0, quotient.high, product), rest

    def choose(
        self,
        dtype,
        condition: str,
        yes: Callable[[], str],
        no: Callable[[], str],
    ) -> str:
        """Declares a variable that is one of two; only that one is computed."""
        name = self._name()
        self._write(f"{dtypes.C_TYPES[dtype.name]} {name};")
        self._write(f"if ({condition}) {{")
        self._scope(name, yes)
        self._write("} else {")
        self._scope(name, no)
        self._write("}")
        return name

    def bound_score(self, size: float) -> None:
        """What was written is faster for scores up to this size."""
        known = self.small_scores
        self.small_scores = size if known is None else min(known, size)

    def body(self, result: str) -> list[str]:
        """The lines that were written, but for what `result` does not need."""
        lines, used = [f"return {result};"], set(_NAME.findall(result))
        for line in reversed(self._lines):
            declared = _DECLARED.match(line)
            if not declared or declared[1] in used:
                lines.append(line)
                used.update(_NAME.findall(line))
        return lines[::-1]

    def where(self, node: Node) -> str:
        """The user's line, in parentheses; nothing for a node without one."""
        where = node.call.where if isinstance(node, Result) else ""
        return f" ({where})" if where else ""

    def refuse(self, node: Result, why: str) -> NoReturn:
        """Raises NotImplementedError with the place in the user's code."""
        raise NotImplementedError(f"{self.hook}: '{node.name}'{self.where(node)} {why}")

    def _element(self, node: Node, indices: Indices) -> str:
        if node in self._operands:
            position = Index.number(0)
            for size, index in zip(node.shape, indices, strict=True):
                position = position * size + index
            load = dtypes.load(node.dtype, self._operands[node], position.text())
            return self.assign(node.dtype, load)
        if isinstance(node, Argument):
            if not indices:
                return node.name
            return self.assign(node.dtype, f"{node.name}({indices[0].text()})")
        assert isinstance(node, Result), node
        rule = self._rules.get(node.name)
        if rule is None:
            supported = ", ".join(sorted(self._rules))
            self.refuse(node, f"is not elementwise; supported: {supported}")
        return rule(self, node, indices)

    def _refuse_dtype(self, node: Node) -> NoReturn:
        raise NotImplementedError(
            f"{self.hook}: {node.dtype.name}{self.where(node)} is not supported in "
            f"device code; supported: {', '.join(dtypes.C_TYPES)}"
        )

    def _declare(self, kind: str, expression: str) -> str:
        name = self._name()
        self._write(f"{kind}{name} = {expression};")
        return name

    def _name(self) -> str:
        self._num_names += 1
        return f"t{self._num_names - 1}"

    def _scope(self, name: str, value: Callable[[], str]) -> None:
        self._known.append({})
        self._write(f"{name} = {value()};")
        self._known.pop()

    def _write(self, line: str) -> None:
        self._lines.append("  " * (len(self._known) - 1) + line)
