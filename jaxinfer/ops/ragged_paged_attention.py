# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""ragged_paged_attention: ragged queries over a paged KV cache."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
from jaxinfer.reference.ragged_paged_attention import (
    ragged_paged_attention as _reference,
)
from jaxinfer.variant import Variant


def ragged_paged_attention(
    query: Any,
    k_pages: Any,
    v_pages: Any,
    page_table: Any,
    kv_lens: Any,
    cu_q_lens: Any = None,
    *,
    page_indptr: Any = None,
    layer: Any = None,
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
    """Attention of a ragged batch over a paged KV cache.

    Prefill, chunked prefill, decode, speculative verification and any mix of them are
    data: sequence b has queries cu_q_lens[b] .. cu_q_lens[b + 1] and kv_lens[b] keys,
    those of its queries included; query i stands at position kv_len - q_len + i
    (bottom-right alignment). T tokens, N query heads, K KV heads, H head dim,
    B sequences, P pages, L layers. (FlashInfer, arXiv 2501.01005, section 3.)

    Args:
      query: f32 | f16 | bf16 [T, N, H], the sequences' queries one after the other.
      k_pages: f32 | f16 | bf16 [P, page_size, K, H], or [L, P, page_size, K, H] with
        `layer`.
      v_pages: as k_pages, [P, page_size, K, Hv] or [L, ...]; Hv may differ from H.
      page_table: i32[B, max_pages], the pages of each sequence in order; or, with
        page_indptr, i32[num_indices], all lists one after the other (CSR). Entries
        past a sequence's keys may hold anything; pages outside [0, P) are masked.
      kv_lens: i32[B]. Keys past the end of a page list do not exist; numpy lengths that
        do not fit raise. (jaxinfer.debug reports both, and page numbers.)
      cu_q_lens: i32[B + 1], ascending from 0; None = one token per sequence. Rows
        past cu_q_lens[B] are padding.
      page_indptr: i32[B + 1], offsets into page_table for the CSR form.
      layer: i32[], which layer of a stacked cache; an operand, so that it may be the
        counter of a scan.
      plan: from jaxinfer.plan, shared by all layers of a step; None = made here.
      is_causal: query at position p sees keys 0 .. p.
      scale: of the scores; None = 1 / sqrt(H).
      local_window_size: (left, right) keys besides its own position that a query sees,
        as in jax.nn; None = unbounded.
      logits_soft_cap: c in c * tanh(score / c), after scaling; None = none.
      attention_sink: f32[N], logits of a key without value; it enters the result once
        and never the lse.
      k_scale: f32[] or f32[K], multiplies keys.
      v_scale: f32[] or f32[K], multiplies values.
      use_softmax: False weighs values by the visible scores themselves.
      variant: JAX functions of scores and vectors that become part of the kernel; see
        jaxinfer.Variant. Its window narrows local_window_size, which a plan must have.
      return_lse: also return the log-sum-exp.
      implementation: None, "cuda", "cpu" or "xla". None is our kernel where there is
        one for platform and dtype, else "xla", the reference in plain jnp.

    Returns:
      out [T, N, Hv] in query's dtype; with return_lse also f32[T, N], the natural
      log-sum-exp of the scores. Rows without a visible key get 0 and -inf.

    Raises:
      ValueError: for ranks, shapes, dtypes, options or numpy lengths that do not fit,
        or a plan that was made for others.
      NotImplementedError: for a head_dim that no kernel has.
    """
    _check.implementation(implementation)
    given = kv_lens, cu_q_lens, page_indptr
    query, kv_lens, page_table = map(jnp.asarray, (query, kv_lens, page_table))
    cu_q_lens = cu_q_lens if cu_q_lens is None else jnp.asarray(cu_q_lens)
    page_indptr = page_indptr if page_indptr is None else jnp.asarray(page_indptr)
    k_pages, v_pages = jnp.asarray(k_pages), jnp.asarray(v_pages)
    is_stacked = layer is not None
    layer = check_layer(k_pages, v_pages, layer)
    sizes = check_pages(
        k_pages, v_pages, page_table, page_indptr, kv_lens, cu_q_lens, is_stacked
    )
    _check.shape("query", query, "T", "N", "H", sizes=sizes)
    _check.floating("query", query)
    _check.not_empty(sizes, T="number of tokens", N="number of query heads")
    _check.host_lengths(
        *given,
        num_tokens=sizes["T"],
        list_size=page_table.shape[-1],
        page_size=sizes["page_size"],
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
        max_kv_len=min(page_table.shape[-1] * sizes["page_size"], 2**31 - 1),
        num_q_heads=sizes["N"],
        num_kv_heads=sizes["K"],
        head_dim=sizes["H"],
        is_causal=is_causal,
        local_window_size=options.local_window_size,
        config=PlanConfig.default(),
    )
    if plan is not None:
        compared = {name: getattr(facts, name) for name in PlanFacts.COMPARED}
        plan.check("ragged_paged_attention", **compared)
        facts = plan.facts
    if attention_sink is not None:
        attention_sink = jnp.asarray(attention_sink)
        _check.shape("attention_sink", attention_sink, "N", sizes=sizes)
        _check.float32("attention_sink", attention_sink)
    out, lse = ragged_paged_attention_op.bind(
        query,
        k_pages,
        v_pages,
        page_table,
        absent(jnp.int32) if page_indptr is None else page_indptr,
        kv_lens,
        absent(jnp.int32) if cu_q_lens is None else cu_q_lens,
        layer,
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


def check_layer(k_pages: Any, v_pages: Any, layer: Any) -> jax.Array:
    """The layer to use, absent for pages of one layer."""
    for name, pages in (("k_pages", k_pages), ("v_pages", v_pages)):
        if layer is None and pages.ndim != 4:
            raise ValueError(
                f"{name} must have shape [P, page_size, K, H], or "
                "[L, P, page_size, K, H] together with `layer`; got shape "
                f"{pages.shape} without it"
            )
    if layer is None:
        return absent(jnp.int32)
    given, layer = layer, jnp.asarray(layer)
    _check.int32("layer", layer)
    _check.shape("layer", layer, sizes={})
    if not isinstance(given, jax.Array) and k_pages.ndim == 5:
        _check.in_range("layer", np.asarray(given), 0, k_pages.shape[0] - 1)
    return layer


def check_pages(
    k_pages, v_pages, page_table, page_indptr, kv_lens, cu_q_lens, is_stacked
):
    """Checks a cache and its page lists; returns the sizes by letter."""
    sizes: dict[str, int] = {} if is_stacked else {"L": 1}
    axes = ("L", "P", "page_size", "K") if is_stacked else ("P", "page_size", "K")
    _check.shape("k_pages", k_pages, *axes, "H", sizes=sizes)
    _check.shape("v_pages", v_pages, *axes, "Hv", sizes=sizes)
    _check.floating("k_pages", k_pages)
    _check.same_dtype("v_pages", v_pages, "k_pages", k_pages)
    _check.not_empty(
        sizes,
        L="number of layers",
        P="number of pages",
        page_size="page size",
        K="number of KV heads",
    )
    check_page_lists(page_table, page_indptr, kv_lens, cu_q_lens, sizes)
    return sizes


def check_page_lists(page_table, page_indptr, kv_lens, cu_q_lens, sizes):
    """Checks the lengths and pages of B sequences; adds their sizes to `sizes`."""
    _check.shape("kv_lens", kv_lens, "B", sizes=sizes)
    if cu_q_lens is not None:
        _check.shape("cu_q_lens", cu_q_lens, "B+1", sizes=sizes)
        _check.int32("cu_q_lens", cu_q_lens)
    if page_indptr is None:
        _check.shape("page_table", page_table, "B", "max_pages", sizes=sizes)
    else:
        _check.shape("page_table", page_table, "num_indices", sizes=sizes)
        _check.shape("page_indptr", page_indptr, "B+1", sizes=sizes)
        _check.int32("page_indptr", page_indptr)
    _check.int32("page_table", page_table)
    _check.int32("kv_lens", kv_lens)
    _check.not_empty(sizes, B="number of sequences")


def _out_types(query, k_pages, v_pages, *_, **params):
    return result_types(query, v_pages.shape[-1])


def _cuda(*operands, options, facts, implementation):
    query, k_pages, v_pages, _, page_indptr = operands[:5]
    layer, k_scale, v_scale, sink = operands[7:11]
    kernels = cuda_kernels(
        query,
        k_pages,
        v_pages,
        options,
        facts,
        page_size=k_pages.shape[-3],
        csr=page_indptr.size > 0,
        stacked=layer.size > 0,
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
    query, v_pages, kv_lens, cu_q_lens, plan = (operands[i] for i in (0, 2, 5, 6, 11))
    if not plan.size:
        (plan,) = plan_op.bind(cu_q_lens, kv_lens, facts=facts)
    return call_kernel(
        "ragged_paged_attention",
        (*operands[:11], plan, *operands[12:]),
        (*query.shape[:2], v_pages.shape[-1]),
        query.dtype,
        options,
        facts,
        kernels,
    )


ragged_paged_attention_op = define_op(
    "ragged_paged_attention",
    out_types=_out_types,
    cpu=_cpu,
    cuda=_cuda,
    reference=_reference,
    batch=lambda operands, axes, **params: _fold.ragged_paged_attention(
        ragged_paged_attention_op, operands, axes, **params
    ),
)
