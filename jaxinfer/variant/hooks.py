# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Hooks: the traced functions of a variant, as device code and as JAX functions."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxinfer.variant.graph import Node, evaluate


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What a variant computes, but for the arrays that it reads.

    Equal if the device code is equal: then the functions are so too, derivatives
    included.

    Attributes:
      code: C++ that defines struct Variant; names no file and no line.
      names: of the hooks that there are, in the order of Variant's fields.
      uses_seq: whether any of them reads b.
      parameters: hook -> its parameters, as nodes.
      results: hook -> what it computes, as a node.
      operands: what the arrays are, as nodes.
    """

    code: str
    names: tuple[str, ...] = dataclasses.field(compare=False)
    uses_seq: bool = dataclasses.field(compare=False)
    parameters: Mapping[str, Sequence[Node]] = dataclasses.field(
        compare=False, repr=False
    )
    results: Mapping[str, Node] = dataclasses.field(compare=False, repr=False)
    operands: Sequence[Node] = dataclasses.field(compare=False, repr=False)

    def functions(self, operands: Sequence[Any]) -> dict[str, Callable[..., jax.Array]]:
        """The hooks as JAX functions.

        Args:
          operands: the arrays that Variant.trace returned, or others like them. The
            functions are differentiable in these, and may be vmapped.

        Returns:
          Hook -> function with the parameters of the hook and a result in float32, of
          mask_mod in bool. Derivatives are those of what is computed, whatever
          jax.custom_jvp or jax.custom_vjp says.
        """
        # A block map may follow: it only repeats what the mask says.
        known = dict(zip(self.operands, operands, strict=False))

        def function(name):
            def run(*arguments):
                values = [
                    jnp.asarray(value, node.dtype)
                    for node, value in zip(
                        self.parameters[name], arguments, strict=True
                    )
                ]
                inputs = dict(zip(self.parameters[name], values, strict=True))
                (result,) = evaluate([self.results[name]], known | inputs)
                dtype = bool if name == "mask_mod" else jnp.float32
                return jnp.asarray(result, dtype)

            return run

        return {name: function(name) for name in self.names}
