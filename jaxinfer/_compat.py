# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The only file that touches jax.extend and jax.interpreters."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
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
    op = _Op(f"jaxinfer_{name}")
    op.multiple_results = True
    op.def_impl(functools.partial(xla.apply_primitive, op))

    @op.def_abstract_eval
    def abstract_eval(*avals, **params):
        return [_vary_like(aval, avals[0]) for aval in out_types(*avals, **params)]

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
        # Closed-over numpy arrays arrive as they are, and lack what jax.Array has.
        primals = [jax.numpy.asarray(x) for x in primals]
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


class _Op(Primitive):
    """A primitive whose operands all vary over the same mesh axes inside shard_map."""

    def bind(self, *operands, **params):
        # As jnp does before its own operations: what is the same on all devices (a page
        # table, a plan) meets what is not (a shard of the cache).
        varying = [jax.typeof(x).manual_axis_type.varying for x in operands]
        axes = frozenset().union(*varying)
        if axes:
            operands = [
                jax.lax.pcast(x, tuple(sorted(axes - own, key=str)), to="varying")
                for x, own in zip(operands, varying, strict=True)
            ]
        return super().bind(*operands, **params)


def _vary_like(aval, operand):
    """The result is placed in the program's mesh, and varies as the operands do."""
    mesh = jax.sharding.get_abstract_mesh()
    return aval.update(
        sharding=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()),
        manual_axis_type=operand.manual_axis_type,
    )
