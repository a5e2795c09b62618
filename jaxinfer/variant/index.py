# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Indices that device code computes: sums of variables times numbers."""

import dataclasses
from typing import NamedTuple

_INT = 2**31 - 1


class Variable(NamedTuple):
    """An int of device code, and what it lies between.

    Attributes:
      name: of the variable.
      low: it is at least this.
      high: it is at most this.
      product: of a quotient, (size, size times it in C++): compilers do not see that
        2 * (i / 2) is i - i % 2, a neighbour of i.
    """

    name: str
    low: int
    high: int
    product: tuple[int, str] | None = None


@dataclasses.dataclass(frozen=True)
class Index:
    """offset + the sum of factor * variable.

    Attributes:
      terms: (variable, factor), factors not 0.
      offset: the number in it.
      low: it is at least this.
      high: it is at most this.
    """

    terms: tuple[tuple[Variable, int], ...]
    offset: int
    low: int
    high: int

    @classmethod
    def number(cls, value: int) -> "Index":
        """A known one."""
        return cls((), int(value), int(value), int(value))

    @classmethod
    def variable(
        cls, name: str, low: int, high: int, product: tuple[int, str] | None = None
    ) -> "Index":
        """A variable of device code; a number if it can be nothing else."""
        if low == high:
            return cls.number(low)
        return cls(((Variable(name, low, high, product), 1),), 0, low, high)

    @property
    def value(self) -> int | None:
        """If it is known."""
        return None if self.terms else self.offset

    def __add__(self, other: "Index | int") -> "Index":
        if isinstance(other, int):
            other = Index.number(other)
        factors = dict(self.terms)
        for variable, factor in other.terms:
            factors[variable] = factors.get(variable, 0) + factor
        terms = tuple((v, f) for v, f in factors.items() if f)
        low, high = self.low + other.low, self.high + other.high
        return Index(terms, self.offset + other.offset, low, high)._known()

    def __mul__(self, factor: int) -> "Index":
        if factor == 0:
            return Index.number(0)
        terms = tuple((v, f * factor) for v, f in self.terms)
        low, high = sorted((self.low * factor, self.high * factor))
        return Index(terms, self.offset * factor, low, high)

    def within(self, low: int, high: int) -> "Index":
        """Where it is known to lie between these."""
        low, high = max(self.low, low), min(self.high, high)
        return dataclasses.replace(self, low=low, high=high)

    def split(self, size: int) -> "tuple[Index, Index] | None":
        """(self // size, self % size) if these are sums as well, else None.

        Args:
          size: a positive number; self must not be negative.
        """
        if size == 1:
            return self, Index.number(0)
        if self.high < size:
            return Index.number(0), self
        whole = _sum([(v, f) for v, f in self.terms if f % size == 0], 0)
        rest = _sum([(v, f) for v, f in self.terms if f % size], self.offset)
        moved = rest.low // size * size
        whole, rest = whole + moved, rest + -moved
        if not 0 <= rest.low <= rest.high < size:
            return None
        terms = tuple((v, f // size) for v, f in whole.terms)
        low, high = whole.low // size, whole.high // size
        return Index(terms, whole.offset // size, low, high), rest

    def text(self) -> str:
        """In C++, int64_t where int might not hold it."""
        reach = max(-self.low, self.high, abs(self.offset))
        reach = max([reach, *(abs(f) * max(v.high, -v.low) for v, f in self.terms)])
        text = ""
        terms = sorted(self.terms, key=lambda term: term[1] < 0)
        for variable, factor in terms:
            name = variable.name if reach <= _INT else f"int64_t{{{variable.name}}}"
            size, whole = variable.product or (0, "")
            if size and factor % size == 0 and reach <= _INT:
                name = whole if factor == size else f"({whole})"
                factor //= size
            product = name if abs(factor) == 1 else f"{abs(factor)} * {name}"
            text += _signed(text, factor < 0, product)
        if self.offset or not text:
            text += _signed(text, self.offset < 0, str(abs(self.offset)))
        return text

    def _known(self) -> "Index":
        return self if self.terms else Index.number(self.offset)


def _signed(before: str, is_negative: bool, text: str) -> str:
    if before:
        return f" - {text}" if is_negative else f" + {text}"
    return f"-{text}" if is_negative else text


def _sum(terms: list[tuple[Variable, int]], offset: int) -> Index:
    total = Index.number(offset)
    for variable, factor in terms:
        total = total + Index.variable(*variable) * factor
    return total
