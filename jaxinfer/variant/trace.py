# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""From JAX functions to hooks: traces, checks results, and finds the operands."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxinfer.variant.block_map import BlockMap
from jaxinfer.variant.emit import render
from jaxinfer.variant.graph import Argument, Graph, Node, evaluate, reachable
from jaxinfer.variant.hoist import operand_nodes
from jaxinfer.variant.hooks import Hooks

# What every hook is called with, in the order of Variant's fields.
HOOKS = {
    "score_mod": ("score", "b", "h", "q_idx", "kv_idx"),
    "mask_mod": ("b", "h", "q_idx", "kv_idx"),
    "query_mod": ("vector", "b", "h", "q_idx"),
    "key_mod": ("vector", "b", "h", "kv_idx"),
    "value_mod": ("vector", "b", "h", "kv_idx"),
    "output_mod": ("vector", "b", "h", "q_idx"),
}
_OF_VALUES = ("value_mod", "output_mod")
# kMostVariantOperands in csrc/attention.h.
MOST_OPERANDS = 16


def trace(
    functions: Mapping[str, Callable[..., Any] | None],
    head_dim: int,
    head_dim_v: int,
    block_map: BlockMap | None = None,
) -> tuple[Hooks | None, list[jax.Array]]:
    """Variant.trace, of functions by the names of the hooks."""
    graph = Graph()
    parameters: dict[str, list[Argument]] = {}
    results: dict[str, Node] = {}
    for hook in HOOKS:
        function = functions.get(hook)
        if function is not None:
            size = head_dim_v if hook in _OF_VALUES else head_dim
            parameters[hook] = _parameters(graph, hook, size)
            results[hook] = _result(graph, hook, function, parameters[hook])
    if not results:
        return None, []

    operands = operand_nodes(results.values())
    if len(operands) + (block_map is not None) > MOST_OPERANDS:
        raise ValueError(
            f"the functions of a variant must read at most {MOST_OPERANDS} arrays, "
            f"got {len(operands)}"
            f"{' and a block map' if block_map else ''}; stack some of them"
        )
    constants, arrays = [], evaluate(operands, {})
    if block_map is not None:
        constants += [f"BlockMap kBlockMap = {{{len(operands)}, {block_map.constant}}}"]
        arrays = [*arrays, block_map.states]
    code = render(parameters, results, operands, constants)
    reads = {n.name for n in reachable(results.values()) if isinstance(n, Argument)}
    hooks = Hooks(code, tuple(results), "b" in reads, parameters, results, operands)
    return hooks, [jnp.asarray(value) for value in arrays]


def indices_read(hook: str, function: Callable[..., Any]) -> set[str]:
    """Names of the parameters of a mask that its result depends on."""
    graph = Graph()
    result = _result(graph, hook, function, _parameters(graph, hook, 1))
    return {n.name for n in reachable([result]) if isinstance(n, Argument)}


def _parameters(graph: Graph, hook: str, head_dim: int) -> list[Argument]:
    def argument(name):
        if name == "vector":
            return graph.argument(name, (head_dim,), jnp.float32)
        return graph.argument(name, (), jnp.float32 if name == "score" else jnp.int32)

    return [argument(name) for name in HOOKS[hook]]


def _result(
    graph: Graph,
    hook: str,
    function: Callable[..., Any],
    parameters: Sequence[Argument],
) -> Node:
    _check_signature(hook, function)
    specs = [jax.ShapeDtypeStruct(n.shape, n.dtype) for n in parameters]
    jaxpr, result = jax.make_jaxpr(function, return_shape=True)(*specs)
    _check_result(hook, result, parameters[0])
    (node,) = graph.add(jaxpr.jaxpr, jaxpr.consts, parameters)
    return node


def _check_signature(hook: str, function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # not known, as of some builtins
        return
    try:
        signature.bind(*HOOKS[hook])
    except TypeError:
        raise ValueError(
            f"{hook} must be a function of ({', '.join(HOOKS[hook])}), got {signature}"
        ) from None


def _check_result(hook: str, result: Any, first: Argument) -> None:
    if hook == "score_mod":
        kinds, shape, meaning = (jnp.floating, jnp.integer), (), "a number of shape []"
    elif hook == "mask_mod":
        kinds, shape, meaning = (jnp.bool_,), (), "a bool of shape []"
    else:
        kinds, shape = (jnp.floating,), first.shape
        meaning = f"a floating array of shape [{shape[0]}]"
    if isinstance(result, jax.ShapeDtypeStruct):
        got = f"{result.dtype.name}[{', '.join(map(str, result.shape))}]"
        is_kind = any(jnp.issubdtype(result.dtype, kind) for kind in kinds)
        if is_kind and result.shape == shape:
            return
    else:
        got = f"{jax.tree.structure(result)}"
    raise ValueError(f"{hook} must return {meaning}, got {got}")
