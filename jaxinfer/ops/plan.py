# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""plan: lengths -> Plan, on the host or inside jit, by the same planner."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinfer import _check, _native
from jaxinfer._compat import call_target, define_op, out_type
from jaxinfer._plan import Plan, PlanConfig, PlanFacts


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
    if cu_q_lens is None:
        cu_q_lens = np.arange(kv_lens.shape[0] + 1, dtype=np.int32)
    facts = make_facts(
        cu_q_lens,
        kv_lens,
        num_tokens=num_tokens,
        max_kv_len=max_kv_len,
        num_q_heads=num_q_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        is_causal=is_causal,
        local_window_size=_check.window(local_window_size),
        config=config or PlanConfig.default(),
    )
    if isinstance(kv_lens, np.ndarray) and isinstance(cu_q_lens, np.ndarray):
        return Plan(_native.make_plan(facts.encoded, cu_q_lens, kv_lens), facts)
    return Plan(plan_op.bind(jnp.asarray(cu_q_lens), kv_lens, facts=facts)[0], facts)


def make_facts(cu_q_lens: Any, kv_lens: Any, **facts: Any) -> PlanFacts:
    """Checks the arguments of a plan; static arguments become PlanFacts."""
    sizes: dict[str, int] = {}
    _check.shape("kv_lens", kv_lens, "B", sizes=sizes)
    _check.shape("cu_q_lens", cu_q_lens, "B+1", sizes=sizes)
    _check.not_empty(sizes, B="number of sequences")
    _check.int32("kv_lens", kv_lens)
    _check.int32("cu_q_lens", cu_q_lens)
    for name in ("num_tokens", "num_q_heads", "num_kv_heads", "head_dim"):
        if facts[name] < 1:
            raise ValueError(f"{name} must be at least 1, got {facts[name]}")
    if facts["max_kv_len"] < 0:
        raise ValueError(f"max_kv_len must not be negative, got {facts['max_kv_len']}")
    _check.head_counts(facts["num_q_heads"], facts["num_kv_heads"])
    made = PlanFacts(num_seqs=sizes["B"], **facts)
    _ = made.layout  # raises on a configuration that the planner cannot use
    return made


def _out_types(cu_q_lens, kv_lens, *, facts: PlanFacts):
    return [out_type((facts.layout["size"],), jnp.int32)]


def _cpu(cu_q_lens, kv_lens, *, facts: PlanFacts):
    result = jax.ShapeDtypeStruct((facts.layout["size"],), jnp.int32)
    return [call_target("plan", result, cu_q_lens, kv_lens, facts=facts.encoded)]


def _reference(cu_q_lens, kv_lens, *, facts: PlanFacts):
    # Where no kernel exists, no kernel reads the plan either.
    return [jnp.zeros((facts.layout["size"],), jnp.int32)]


def _batch(operands, axes, *, facts: PlanFacts):
    """A plan a batch entry, one after the other."""
    size = next(x.shape[a] for x, a in zip(operands, axes, strict=True) if a is not None)
    moved = [
        jnp.broadcast_to(x, (size, *x.shape)) if a is None else jnp.moveaxis(x, a, 0)
        for x, a in zip(operands, axes, strict=True)
    ]
    return jax.lax.map(lambda xs: plan_op.bind(*xs, facts=facts), tuple(moved)), [0]


plan_op = define_op(
    "plan", out_types=_out_types, cpu=_cpu, reference=_reference, batch=_batch
)
