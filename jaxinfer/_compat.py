# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The only file that touches jax.extend and jax.interpreters."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla

from jaxinfer._library import target_name

Arrays = Sequence[jax.Array]


def out_type(shape: Sequence[int], dtype: Any) -> jax.core.ShapedArray:
    """The abstract value of one result."""
    return jax.core.ShapedArray(tuple(shape), jax.numpy.dtype(dtype))


def define_op(
    name: str,
    *,
    out_types: Callable[..., list[jax.core.ShapedArray]],
    cpu: Callable[..., Arrays],
    reference: Callable[..., Arrays],
    batch: Callable[..., tuple[Arrays, Sequence[int]]],
) -> Primitive:
    """Makes a primitive of an op: one name from the call down to the kernel.

    Args:
      name: of the op; its FFI target is target_name(name).
      out_types: (*avals, **params) -> abstract results. Raises on misuse.
      cpu: (*operands, **params) -> results, by the FFI target of the op.
      reference: the same in plain jnp. Runs where there is no kernel for the platform,
        and for every derivative.
      batch: (operands, axes, **params) -> (results, axes), the rule for vmap.

    Returns:
      A primitive with several results. Its parameters are static and hashable;
      parameter `implementation` chooses what runs: "cpu" and "xla" as asked, None
      the kernel where the platform has one and the reference elsewhere.
    """
    op = Primitive(f"jaxinfer_{name}")
    op.multiple_results = True
    op.def_impl(functools.partial(xla.apply_primitive, op))

    @op.def_abstract_eval
    def abstract_eval(*avals, **params):
        return [_vary_like(aval, avals) for aval in out_types(*avals, **params)]

    def lower_cpu(*operands, **params):
        run = reference if params.get("implementation") == "xla" else cpu
        return run(*operands, **params)

    def lower_elsewhere(*operands, **params):
        if params.get("implementation") == "cpu":
            raise ValueError(
                f"{name}: implementation='cpu' was asked for, but the program is being "
                "compiled for another platform; use None, 'xla' or a CPU device"
            )
        return reference(*operands, **params)

    mlir.register_lowering(
        op, mlir.lower_fun(lower_cpu, multiple_results=True), platform="cpu"
    )
    mlir.register_lowering(op, mlir.lower_fun(lower_elsewhere, multiple_results=True))
    batching.primitive_batchers[op] = batch

    def jvp(primals, tangents, **params):
        # The derivative is that of the reference: correct everywhere, fast nowhere.
        varying = [i for i, t in enumerate(tangents) if type(t) is not ad.Zero]

        def of_varying(*values):
            operands = list(primals)
            for i, value in zip(varying, values, strict=True):
                operands[i] = value
            return reference(*operands, **params)

        results = op.bind(*primals, **params)
        _, tangents_out = jax.jvp(
            of_varying,
            [primals[i] for i in varying],
            [tangents[i] for i in varying],
        )
        return results, list(tangents_out)

    ad.primitive_jvps[op] = jvp
    return op


def call_target(name: str, results, *operands, aliases=None, **attributes):
    """Calls the FFI target of op `name`; `aliases` maps operands to results."""
    call = jax.ffi.ffi_call(
        target_name(name), results, input_output_aliases=aliases or {}
    )
    return call(*operands, **attributes)


def _vary_like(aval, operands):
    """Inside shard_map, a result varies over the mesh axes that its operands do."""
    axes = frozenset().union(*(getattr(x, "vma", frozenset()) for x in operands))
    return aval.update(vma=axes) if axes else aval
