# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""plan: lengths -> Plan, on the host or inside jit, by the same planner."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinfer import _check, _fold, _native
from jaxinfer._attention import absent
from jaxinfer._compat import call_target, define_op, out_type
from jaxinfer._library import kernel_attributes
from jaxinfer._plan import Plan, PlanConfig, PlanFacts, gpu_arch
from jaxinfer.jit import KernelSpec


def plan(
    cu_q_lens: Any,
    kv_lens: Any,
    *,
    num_tokens: int,
    max_kv_len: int,
    num_q_heads: int,
    num_kv_heads: int,
    head_dim: int,
    is_causal: bool = True,
    local_window_size: int | tuple[int | None, int | None] | None = None,
    config: PlanConfig | None = None,
) -> Plan:
    """Balances a ragged batch over CTAs (FlashInfer, arXiv 2501.01005, section 3.3.1).

    Numpy lengths are planned on the host at once. JAX arrays, traced or not, are
    planned by an op of the graph: nothing is copied to the host. Both give the same
    bits. Make it once a step and pass it to every layer with the same mask.

    Args:
      cu_q_lens: i32[B + 1], offsets of the sequences' queries; None = one each.
      kv_lens: i32[B], keys of each sequence, those of this step's queries included.
      num_tokens: T, the rows of `query`, padding included.
      max_kv_len: largest kv_len that will come, e.g. max_pages * page_size. Longer
        ones are planned as this long.
      num_q_heads: N.
      num_kv_heads: K; in a head-sharded program the local counts.
      head_dim: H.
      is_causal: as of the ops that will use the plan.
      local_window_size: as of the ops that will use the plan.
      config: what to balance for; None = PlanConfig.default().

    Returns:
      A Plan of int32 arrays whose sizes depend on the static arguments alone.

    Raises:
      ValueError: for shapes, dtypes and static arguments that do not fit.
    """
    kv_lens = kv_lens if isinstance(kv_lens, jax.Array) else np.asarray(kv_lens)
    sizes: dict[str, int] = {}
    _check.shape("kv_lens", kv_lens, "B", sizes=sizes)
    _check.int32("kv_lens", kv_lens)
    if cu_q_lens is None:
        cu_q_lens = np.zeros(0, np.int32)  # absent
    else:
        if not isinstance(cu_q_lens, jax.Array):
            cu_q_lens = np.asarray(cu_q_lens)
        _check.shape("cu_q_lens", cu_q_lens, "B+1", sizes=sizes)
        _check.int32("cu_q_lens", cu_q_lens)
    static = {
        "num_tokens": num_tokens,
        "num_seqs": sizes["B"],
        "max_kv_len": max_kv_len,
        "num_q_heads": num_q_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "is_causal": is_causal,
        "local_window_size": _check.window(local_window_size),
        "config": config or PlanConfig.default(),
    }
    try:
        facts = make_facts(**static)
    except TypeError as error:  # something is not hashable: the checks say what
        make_facts.__wrapped__(**static)
        raise ValueError(f"config must be hashable, got {config!r}") from error
    if isinstance(kv_lens, np.ndarray) and isinstance(cu_q_lens, np.ndarray):
        return Plan(_native.make_plan(facts.encoded, cu_q_lens, kv_lens), facts)
    # What is absent is made in the graph: as a constant it would be an operand of an
    # enclosing shard_map, and jaxlib 0.11.2 crashes on operands without elements there.
    cu_q_lens = jnp.asarray(cu_q_lens) if cu_q_lens.size else absent(jnp.int32)
    return Plan(plan_op.bind(cu_q_lens, kv_lens, facts=facts)[0], facts)


@functools.lru_cache(1024)
def make_facts(**facts: Any) -> PlanFacts:
    """Checks the static arguments of a plan; cached, for it is called every step."""
    for name in ("num_tokens", "num_seqs", "num_q_heads", "num_kv_heads", "head_dim"):
        _check.count(name, facts[name], least=1)
    _check.count("max_kv_len", facts["max_kv_len"], least=0)
    _check.flag("is_causal", facts["is_causal"])
    _check.head_counts(facts["num_q_heads"], facts["num_kv_heads"])
    made = PlanFacts(**facts)
    _ = made.layout  # raises on a configuration that the planner cannot use
    return made


def _out_types(cu_q_lens, kv_lens, *, facts: PlanFacts):
    return [out_type((facts.layout["size"],), jnp.int32)]


def _cuda(*operands, facts: PlanFacts):
    kernel = KernelSpec("plan", gpu_arch(facts.config))
    return _cpu(*operands, facts=facts, **kernel_attributes(kernel))


def _cpu(cu_q_lens, kv_lens, *, facts: PlanFacts, **kernel):
    result = jax.ShapeDtypeStruct((facts.layout["size"],), jnp.int32)
    return [
        call_target("plan", result, cu_q_lens, kv_lens, facts=facts.encoded, **kernel)
    ]


def _reference(cu_q_lens, kv_lens, *, facts: PlanFacts):
    # Where no kernel exists, no kernel reads the plan either.
    return [jnp.zeros((facts.layout["size"],), jnp.int32)]


def _batch(operands, axes, *, facts: PlanFacts):
    """A plan a batch entry, one after the other."""
    return _fold.sequential(plan_op, operands, axes, facts=facts)


plan_op = define_op(
    "plan",
    out_types=_out_types,
    cpu=_cpu,
    cuda=_cuda,
    reference=_reference,
    batch=_batch,
)
