# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""ragged_attention: ragged queries over ragged keys, without pages."""

from typing import Any

import jax.numpy as jnp

from jaxinfer import _check, _fold
from jaxinfer._attention import (
    absent,
    call_kernel,
    cuda_kernels,
    make_options,
    no_cpu_kernel,
    per_head,
    result_types,
)
from jaxinfer._compat import define_op
from jaxinfer._plan import Plan, PlanConfig, PlanFacts
from jaxinfer.ops.plan import plan_op
from jaxinfer.reference.ragged_attention import ragged_attention as _reference
from jaxinfer.variant import Variant


def ragged_attention(
    query: Any,
    key: Any,
    value: Any,
    cu_q_lens: Any,
    cu_kv_lens: Any = None,
    *,
    plan: Plan | None = None,
    is_causal: bool = True,
    scale: float | None = None,
    local_window_size: int | tuple[int | None, int | None] | None = None,
    logits_soft_cap: float | None = None,
    attention_sink: Any = None,
    k_scale: Any = None,
    v_scale: Any = None,
    use_softmax: bool = True,
    variant: Variant | None = None,
    return_lse: bool = False,
    implementation: str | None = None,
) -> Any:
    """Attention of a ragged batch over keys that lie one after the other.

    Sequence b has queries cu_q_lens[b] .. cu_q_lens[b + 1] and keys cu_kv_lens[b] ..
    cu_kv_lens[b + 1]; query i stands at position kv_len - q_len + i.

    Args:
      query: f32 | f16 | bf16 [T, N, H].
      key: f32 | f16 | bf16 [S, K, H].
      value: [S, K, Hv] in the dtype of key.
      cu_q_lens: i32[B + 1], ascending from 0; None = one token per sequence.
      cu_kv_lens: i32[B + 1], ascending from 0; None = cu_q_lens (self attention).
      plan: from jaxinfer.plan(cu_q_lens, cu_kv_lens[1:] - cu_kv_lens[:-1], ...);
        None = made here.
      is_causal: as in ragged_paged_attention, and so the options below.
      scale: None = 1 / sqrt(H).
      local_window_size: (left, right), None = unbounded.
      logits_soft_cap: None = none.
      attention_sink: f32[N].
      k_scale: f32[] or f32[K].
      v_scale: f32[] or f32[K].
      use_softmax: False weighs values by the visible scores themselves.
      variant: what else happens to scores and vectors; see jaxinfer.Variant.
      return_lse: also return the log-sum-exp.
      implementation: None, "cuda", "cpu" or "xla".

    Returns:
      out [T, N, Hv] in query's dtype; with return_lse also f32[T, N]. Rows without a
      visible key get 0 and -inf.

    Raises:
      ValueError: for ranks, shapes, dtypes or options that do not fit.
      NotImplementedError: for a head_dim that no kernel has.
    """
    _check.implementation(implementation)
    if cu_q_lens is None and cu_kv_lens is None:
        raise ValueError("cu_kv_lens must be given where cu_q_lens is None, got None")
    query, key, value = map(jnp.asarray, (query, key, value))
    cu_q_lens = cu_q_lens if cu_q_lens is None else jnp.asarray(cu_q_lens)
    cu_kv_lens = cu_q_lens if cu_kv_lens is None else jnp.asarray(cu_kv_lens)
    sizes: dict[str, int] = {}
    _check.shape("query", query, "T", "N", "H", sizes=sizes)
    _check.shape("key", key, "S", "K", "H", sizes=sizes)
    _check.shape("value", value, "S", "K", "Hv", sizes=sizes)
    if cu_q_lens is not None:
        _check.shape("cu_q_lens", cu_q_lens, "B+1", sizes=sizes)
        _check.int32("cu_q_lens", cu_q_lens)
    _check.shape("cu_kv_lens", cu_kv_lens, "B+1", sizes=sizes)
    _check.floating("query", query)
    _check.floating("key", key)
    _check.same_dtype("value", value, "key", key)
    _check.int32("cu_kv_lens", cu_kv_lens)
    _check.not_empty(
        sizes,
        T="number of tokens",
        S="number of keys",
        N="number of query heads",
        K="number of KV heads",
        B="number of sequences",
    )
    _check.head_counts(sizes["N"], sizes["K"])
    _check.head_dim("head_dim", sizes["H"], implementation)
    _check.head_dim("head_dim_v", sizes["Hv"], implementation)
    options, arrays = make_options(
        sizes["H"],
        sizes["Hv"],
        variant=variant,
        scale=scale,
        is_causal=is_causal,
        local_window_size=local_window_size,
        logits_soft_cap=logits_soft_cap,
        use_softmax=use_softmax,
        return_lse=return_lse,
        attention_sink=attention_sink,
    )
    facts = PlanFacts(
        num_tokens=sizes["T"],
        num_seqs=sizes["B"],
        max_kv_len=sizes["S"],
        num_q_heads=sizes["N"],
        num_kv_heads=sizes["K"],
        head_dim=sizes["H"],
        is_causal=is_causal,
        local_window_size=options.local_window_size,
        config=PlanConfig.default(),
    )
    if plan is not None:
        compared = {name: getattr(facts, name) for name in PlanFacts.COMPARED}
        plan.check("ragged_attention", **compared)
        facts = plan.facts
    if attention_sink is not None:
        attention_sink = jnp.asarray(attention_sink)
        _check.shape("attention_sink", attention_sink, "N", sizes=sizes)
        _check.float32("attention_sink", attention_sink)
    kv_starts = jnp.clip(cu_kv_lens, 0, sizes["S"])
    out, lse = ragged_attention_op.bind(
        query,
        key,
        value,
        kv_starts[:-1],
        jnp.maximum(kv_starts[1:] - kv_starts[:-1], 0),
        absent(jnp.int32) if cu_q_lens is None else cu_q_lens,
        per_head("k_scale", k_scale, sizes["K"]),
        per_head("v_scale", v_scale, sizes["K"]),
        absent() if attention_sink is None else attention_sink,
        absent(jnp.int32) if plan is None else jnp.asarray(plan.buffer),
        *arrays,
        options=options,
        facts=facts,
        implementation=implementation,
    )
    return (out, lse) if return_lse else out


def _out_types(query, key, value, *_, **params):
    return result_types(query, value.shape[-1])


def _cuda(*operands, options, facts, implementation):
    query, key, value = operands[:3]
    k_scale, v_scale, sink = operands[6:9]
    kernels = cuda_kernels(
        query,
        key,
        value,
        options,
        facts,
        k_scale=k_scale.size > 0,
        v_scale=v_scale.size > 0,
        sink=sink.size > 0,
    )
    return kernels and _call(*operands, options=options, facts=facts, kernels=kernels)


def _cpu(*operands, options, facts, implementation):
    if options.hooks is not None:
        return no_cpu_kernel(implementation)
    return _call(*operands, options=options, facts=facts)


def _call(*operands, options, facts, kernels=None):
    query, value, kv_lens, cu_q_lens, plan = (operands[i] for i in (0, 2, 4, 5, 9))
    if not plan.size:
        (plan,) = plan_op.bind(cu_q_lens, kv_lens, facts=facts)
    return call_kernel(
        "ragged_attention",
        (*operands[:9], plan, *operands[10:]),
        (*query.shape[:2], value.shape[-1]),
        query.dtype,
        options,
        facts,
        kernels,
    )


ragged_attention_op = define_op(
    "ragged_attention",
    out_types=_out_types,
    cpu=_cpu,
    cuda=_cuda,
    reference=_reference,
    batch=lambda operands, axes, **params: _fold.ragged_attention(
        ragged_attention_op, operands, axes, **params
    ),
)
