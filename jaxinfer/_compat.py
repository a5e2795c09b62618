# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The only file that touches jax.extend and jax.interpreters."""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Primitive
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
    cpu: Callable[..., Arrays | None],
    reference: Callable[..., Arrays],
    batch: Callable[..., tuple[Arrays, Sequence[int]]],
    cuda: Callable[..., Arrays | None] | None = None,
) -> Primitive:
    """Makes a primitive of an op: one name from the call down to the kernel.

    Args:
      name: of the op; its FFI target is target_name(name).
      out_types: (*avals, **params) -> abstract results. Raises on misuse.
      cpu: (*operands, **params) -> results, by the FFI target of the op. Returns None
        for what no kernel does: then the reference runs, or raises if this kernel was
        asked for by name.
      reference: the same in plain jnp. Runs where there is no kernel for the platform,
        and for every derivative.
      batch: (operands, axes, **params) -> (results, axes), the rule for vmap.
      cuda: as cpu, on NVIDIA GPUs. Called only while a program is lowered for one, so
        this is where kernels are compiled.

    Returns:
      A primitive with several results. Its parameters are static and hashable;
      parameter `implementation` chooses what runs: "cpu", "cuda" and "xla" as asked,
      None the kernel where the platform has one and the reference elsewhere.
    """
    op = _Op(f"jaxinfer_{name}")
    op.multiple_results = True
    op.def_impl(functools.partial(xla.apply_primitive, op))

    @op.def_abstract_eval
    def abstract_eval(*avals, **params):
        return [_vary_like(aval, avals[0]) for aval in out_types(*avals, **params)]

    def lower(platform, kernel):
        def run(*operands, **params):
            asked = params.get("implementation")
            if asked not in (None, "xla", platform):
                raise ValueError(
                    f"{name}: implementation={asked!r} was asked for, but the program "
                    f"is being compiled for another platform; use None, 'xla' or a "
                    f"{asked.upper()} device"
                )
            results = None
            if kernel is not None and asked != "xla":
                with jax.named_scope(f"jaxinfer_{name}"):  # what profilers show
                    results = kernel(*operands, **params)
            if results is None and asked == platform:
                raise NotImplementedError(
                    f"{name}: no {platform} kernel for {jax.typeof(operands[0])}; use "
                    "implementation=None or 'xla'"
                )
            return reference(*operands, **params) if results is None else results

        return mlir.lower_fun(run, multiple_results=True)

    mlir.register_lowering(op, lower("cpu", cpu), platform="cpu")
    mlir.register_lowering(op, lower("cuda", cuda), platform="cuda")
    mlir.register_lowering(op, lower("xla", None))
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


# Equations that stand for a program, which is among their parameters.
_CALLS = {
    *("checkpoint", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call"),
    *("custom_vjp_call_jaxpr", "jit", "pjit", "remat", "remat2"),
}


def inner_program(equation: Any) -> tuple[Jaxpr, Sequence[Any]] | None:
    """The jaxpr that an equation calls and its constants; None if it calls none."""
    if equation.primitive.name in _CALLS:
        for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
            program = equation.params.get(name)
            if isinstance(program, ClosedJaxpr):
                return program.jaxpr, program.consts
            if isinstance(program, Jaxpr):
                return program, ()
    return None


def apply_primitive(primitive: Any, params: dict[str, Any], operands: Arrays) -> Arrays:
    """The results of an equation with these operands."""
    bound = primitive.get_bind_params(params)
    # JAX 0.10.0 and 0.10.1 keep functions apart from the parameters.
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    results = primitive.bind(*functions, *operands, **params)
    return results if primitive.multiple_results else [results]


def is_literal(atom: Any) -> bool:
    """Whether an operand of an equation is a number, which is `atom.val`."""
    return isinstance(atom, Literal)


def source_of(equation: Any) -> str:
    """Where the user wrote it: "file.py:12 (function)"; nothing if not known."""
    text = source_info_util.summarize(equation.source_info)
    text = re.sub(r":(\d+):\d+(?= \(|$)", r":\1", text)  # without the column
    return re.sub(r"^.*[/\\]", "", text)


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
