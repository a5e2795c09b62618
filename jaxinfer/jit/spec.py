# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""What to compile, as a value: KernelSpec; and the digest that names the result."""

import functools
import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Constant = bool | int | float
_INT32 = range(-(2**31), 2**31)


@dataclass(frozen=True, eq=False)
class KernelSpec:
    """One kernel with its compile-time constants. Equal if the source text is equal.

    Attributes:
      kernel: name of the device source csrc/<kernel>.cuh.
      arch: the exact architecture, e.g. "sm_90a".
      constants: (name, value) of the members of struct Spec, in their order. A bool
        becomes bool, an int becomes int, a float the nearest float.
      code: device code put between struct Spec and the kernel.

    Raises:
      ValueError: for names that are not C++ names, and values that have no literal.
    """

    kernel: str
    arch: str
    constants: tuple[tuple[str, Constant], ...] = ()
    code: str = ""

    def __post_init__(self) -> None:
        """Renders the source once, so that wrong constants raise here."""
        _match("kernel", self.kernel, r"[a-z]\w*", "the stem of a file in csrc")
        _match("arch", self.arch, r"sm_\d{2,3}[af]?", "an architecture like 'sm_90a'")
        names = [name for name, _ in self.constants]
        if len(set(names)) < len(names):
            raise ValueError(f"constants must have distinct names, got {names}")
        assert self.source

    @functools.cached_property
    def source(self) -> str:
        """The text that NVRTC is given."""
        members = [
            f"  static constexpr {_literal(name, value)}"
            for name, value in self.constants
        ]
        lines = [
            f"// {self.kernel} for {self.arch}, rendered by jaxinfer.jit.",
            "namespace jaxinfer {",
            "struct Spec {",
            *members,
            "};",
            "}  // namespace jaxinfer",
            *([self.code.rstrip("\n")] if self.code else []),
            f'#include "csrc/{self.kernel}.cuh"',
        ]
        return "\n".join([*lines, ""])

    # Not field by field: 1 == True == 1.0 in Python, but they are three kernels.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, KernelSpec) and self.source == other.source

    def __hash__(self) -> int:
        return hash(self.source)

    def to_json(self) -> dict[str, Any]:
        """As plain values, for json.dumps."""
        constants = dict(self.constants)
        fields = {"kernel": self.kernel, "arch": self.arch, "constants": constants}
        return fields | ({"code": self.code} if self.code else {})

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "KernelSpec":
        """The inverse of to_json.

        Raises:
          ValueError: if fields are missing, unknown or of the wrong kind.
        """
        try:
            constants = dict(fields.get("constants", {}))
            rest = {key: fields[key] for key in fields if key != "constants"}
            return cls(**rest, constants=tuple(constants.items()))
        except (AttributeError, TypeError) as error:
            raise ValueError(
                "a kernel spec must be an object with kernel, arch and, if any, "
                f"constants and code; got {fields!r} ({error})"
            ) from None


def kernel_digest(
    source: str, headers: Mapping[str, str], compiler: str, options: Sequence[str]
) -> str:
    """Names a cubin by everything that it is made from.

    Args:
      source: the rendered source.
      headers: name -> text of what it includes.
      compiler: name and version, build included.
      options: of the compiler, the architecture among them.

    Returns:
      32 hexadecimal digits.
    """
    # JSON keeps the parts apart: no two lists of them are the same text.
    parts = [source, sorted(headers.items()), compiler, list(options)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _match(name: str, value: object, pattern: str, meaning: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
        raise ValueError(f"{name} must be {meaning}, got {value!r}")


def _literal(name: str, value: object) -> str:
    """One member of struct Spec, from its type to the end of the line."""
    _match("a constant's name", name, r"[A-Za-z_]\w*", "a C++ name")
    kind = type(value)  # by type and not isinstance: bool is an int in Python
    if isinstance(value, bool):
        return f"bool {name} = {str(value).lower()};"
    if kind is int and value in _INT32:
        return f"int {name} = {value};"
    if isinstance(value, float) and kind is float and math.isfinite(value):
        try:
            rounded = struct.unpack("<f", struct.pack("<f", value))[0]
        except OverflowError:
            rounded = math.inf
        if math.isfinite(rounded):
            # Hexadecimal is exact, whatever the compiler's parser does.
            digits = re.sub(r"\.?0+p", "p", rounded.hex())
            return f"float {name} = {digits}f;  // {rounded:.9g}"
    raise ValueError(
        f"constants: {name} must be a Python bool, an int in [-2^31, 2^31) or a float "
        f"that is finite in float32, got {value!r} ({kind.__name__})"
    )
