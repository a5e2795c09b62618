# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""dot_product_attention: a drop-in for jax.nn.dot_product_attention."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinfer import _check, _fold
from jaxinfer._attention import absent, call_kernel, cuda_kernels, make_options
from jaxinfer._compat import define_op, out_type
from jaxinfer._plan import PlanConfig, PlanFacts
from jaxinfer.ops.plan import plan_op
from jaxinfer.reference.dot_product_attention import (
    dot_product_attention as _reference,
)

# What jax.nn writes into masked scores of its float32 softmax.
_MASKED_SCORE = -0.7 * float(np.finfo(np.float32).max)


def dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    mask: Any = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    query_seq_lengths: Any = None,
    key_value_seq_lengths: Any = None,
    local_window_size: int | tuple[int | None, int | None] | None = None,
    implementation: str | None = None,
    return_residual: bool = False,
) -> Any:
    """Dense attention with the semantics of jax.nn.dot_product_attention.

    The same arguments, layouts and results: causal masks are top-left aligned (unlike
    those of the ragged ops), and a row in which nothing is visible averages all values.
    Derivatives are those of the reference.

    Args:
      query: f32 | f16 | bf16 [B, T, N, H] or [T, N, H]; axes that are missing in front
        of any array have size 1.
      key: [B, S, K, H] or [S, K, H] in query's dtype; N is a multiple of K.
      value: as key.
      bias: added to the scaled scores; broadcastable to [B, N, T, S]. May mask by
        -inf, but not all that a row sees (jax.nn makes that NaN).
      mask: bool, True = visible; broadcastable to [B, N, T, S].
      scale: None = 1 / sqrt(H).
      is_causal: query t sees keys 0 .. t.
      query_seq_lengths: i32[B]; later rows are 0.
      key_value_seq_lengths: i32[B]; later keys are masked.
      local_window_size: (left, right) keys that a query sees besides its own.
      implementation: None, "cuda" or "cpu" for our kernel, "xla" for jax.nn itself.
      return_residual: also return the log-sum-exp, in key's dtype as jax.nn does.

    Returns:
      out like query; with return_residual also [B, T, N] or [T, N].

    Raises:
      ValueError: for ranks, shapes, dtypes or options that do not fit.
      NotImplementedError: for a head_dim that no kernel has.
    """
    _check.implementation(implementation)
    if implementation == "xla":
        return jax.nn.dot_product_attention(
            query,
            key,
            value,
            bias,
            mask,
            scale=scale,
            is_causal=is_causal,
            query_seq_lengths=query_seq_lengths,
            key_value_seq_lengths=key_value_seq_lengths,
            local_window_size=_window_of_jax_nn(local_window_size),
            implementation="xla",
            return_residual=return_residual,
        )
    query, key, value = map(jnp.asarray, (query, key, value))
    out_shape = query.shape
    query, key, value, bias, mask = (
        x if x is None else _with_four_axes(jnp.asarray(x))
        for x in (query, key, value, bias, mask)
    )
    sizes: dict[str, int] = {}
    _check.shape("query", query, "B", "T", "N", "H", sizes=sizes)
    _check.shape("key", key, "B", "S", "K", "H", sizes=sizes)
    _check.shape("value", value, "B", "S", "K", "H", sizes=sizes)
    _check.floating("query", query)
    _check.same_dtype("key", key, "query", query)
    _check.same_dtype("value", value, "query", query)
    _check.not_empty(
        sizes,
        B="batch size",
        T="number of queries",
        S="number of keys",
        N="number of query heads",
        K="number of KV heads",
    )
    _check.head_counts(sizes["N"], sizes["K"])
    _check.head_dim("head_dim", sizes["H"], implementation)
    full = tuple(sizes[letter] for letter in "BNTS")
    for name, array in (("bias", bias), ("mask", mask)):
        if array is not None and (
            array.ndim != 4
            or any(
                got not in (1, size)
                for got, size in zip(array.shape, full, strict=True)
            )
        ):
            raise ValueError(
                f"{name} must broadcast to [B, N, T, S] = {list(full)}, "
                f"got shape {array.shape}"
            )
    if mask is not None and mask.dtype != jnp.bool_:
        raise ValueError(f"mask must be bool, got {mask.dtype}; add floats as bias")
    for name, lengths in (
        ("query_seq_lengths", query_seq_lengths),
        ("key_value_seq_lengths", key_value_seq_lengths),
    ):
        if lengths is not None:
            _check.shape(name, jnp.asarray(lengths), "B", sizes=sizes)
            _check.int32(name, jnp.asarray(lengths))
    options, _ = make_options(
        sizes["H"],
        sizes["H"],
        scale=scale,
        is_causal=is_causal,
        local_window_size=local_window_size,
    )
    lengths = key_value_seq_lengths
    out, lse = _attend(
        query, key, value, bias, mask, lengths, sizes, options, implementation
    )
    if not all(x is None for x in (mask, key_value_seq_lengths, local_window_size)):
        out, lse = _average_where_nothing_is_visible(out, lse, value)
    if query_seq_lengths is not None:
        is_real = jnp.arange(sizes["T"]) < jnp.asarray(query_seq_lengths)[:, None]
        out = jnp.where(is_real[..., None, None], out, 0)
        all_masked = jnp.float32(_MASKED_SCORE) + np.float32(np.log(sizes["S"]))
        lse = jnp.where(is_real[..., None], lse, all_masked)
    lse = jax.lax.stop_gradient(lse).astype(key.dtype)
    out, lse = out.reshape(out_shape), lse.reshape(out_shape[:-1])
    return (out, lse) if return_residual else out


def _with_four_axes(x: jax.Array) -> jax.Array:
    return x.reshape((1,) * (4 - x.ndim) + x.shape)


def _window_of_jax_nn(window: Any) -> Any:
    """jax.nn has no unbounded sides; a window of 2^30 is one."""
    if window is None:
        return None
    return tuple(2**30 if side is None else side for side in _check.window(window))


def _attend(query, key, value, bias, mask, kv_lens, sizes, options, implementation):
    batch, num_queries, num_keys = (sizes[letter] for letter in "BTS")
    facts = PlanFacts(
        num_tokens=batch * num_queries,
        num_seqs=batch,
        max_kv_len=num_queries if options.is_causal else num_keys,
        num_q_heads=sizes["N"],
        num_kv_heads=sizes["K"],
        head_dim=sizes["H"],
        is_causal=options.is_causal,
        local_window_size=options.local_window_size,
        config=dataclasses.replace(PlanConfig.default(), batch_invariant=False),
    )
    if kv_lens is None:
        kv_lens = jnp.full((batch,), num_keys, jnp.int32)
    cu_q_lens = absent(jnp.int32)
    if num_queries > 1:
        cu_q_lens = jnp.arange(batch + 1, dtype=jnp.int32) * num_queries
    return dot_product_attention_op.bind(
        query,
        key,
        value,
        absent() if bias is None else bias.astype(jnp.float32),
        absent(jnp.bool_) if mask is None else mask,
        jnp.arange(batch, dtype=jnp.int32) * num_keys,
        jnp.clip(jnp.asarray(kv_lens), 0, num_keys),
        cu_q_lens,
        options=options,
        facts=facts,
        implementation=implementation,
    )


def _average_where_nothing_is_visible(out, lse, value):
    """jax.nn masks scores by a large finite number: such rows weigh all keys alike."""
    nothing = lse == -jnp.inf
    num_keys, num_kv_heads = value.shape[1:3]

    def average(out):
        mean = value.astype(jnp.float32).mean(1)  # [B, K, H]
        mean = jnp.repeat(mean, out.shape[2] // num_kv_heads, axis=1)
        return jnp.where(nothing[..., None], mean[:, None].astype(out.dtype), out)

    out = jax.lax.cond(nothing.any(), average, lambda out: out, out)
    masked = jnp.float32(_MASKED_SCORE) + np.float32(np.log(num_keys))
    return out, jnp.where(nothing, masked, lse)


def _out_types(query, key, value, *_, **params):
    return [out_type(query.shape, query.dtype), out_type(query.shape[:3], jnp.float32)]


def _cuda(*operands, options, facts, implementation):
    query, key, value, bias, mask, *_ = operands
    given = {"bias": bias.size > 0, "mask": mask.size > 0}
    kernels = cuda_kernels(query, key, value, options, facts, **given)
    return kernels and _call(*operands, options=options, facts=facts, kernels=kernels)


def _cpu(*operands, options, facts, implementation):
    return _call(*operands, options=options, facts=facts)


def _call(*operands, options, facts, kernels=None):
    query, kv_lens, cu_q_lens = (operands[i] for i in (0, 6, 7))
    batch, num_queries, num_heads, head_dim = query.shape
    # Query t stands at position t. The planner counts from the end of the keys: with as
    # many keys as queries the two agree.
    planned = jnp.full_like(kv_lens, facts.max_kv_len)
    (plan,) = plan_op.bind(cu_q_lens, planned, facts=facts)
    out, lse = call_kernel(
        "dot_product_attention",
        (*operands, plan),
        (batch * num_queries, num_heads, head_dim),
        query.dtype,
        options,
        facts,
        kernels,
    )
    return [out.reshape(query.shape), lse.reshape(query.shape[:3])]


dot_product_attention_op = define_op(
    "dot_product_attention",
    out_types=_out_types,
    cpu=_cpu,
    cuda=_cuda,
    reference=_reference,
    batch=lambda operands, axes, **params: _fold.dot_product_attention(
        dot_product_attention_op, operands, axes, **params
    ),
)
