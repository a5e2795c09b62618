# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Attention of ragged queries over gathered keys, one query row at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxinfer.reference.variant import modifiers

# Rows are computed together while their gathered keys stay below this many elements.
_ELEMENTS_AT_ONCE = 2**25


def sequence_starts(cu_q_lens: jax.Array, num_seqs: int, num_tokens: int) -> jax.Array:
    """i32[B + 1]: offsets made monotone, from 0, and at most num_tokens.

    Absent ones are those of one token per sequence.
    """
    if not cu_q_lens.size:
        cu_q_lens = jnp.arange(num_seqs + 1, dtype=jnp.int32)
    return jax.lax.cummax(jnp.clip(cu_q_lens.at[0].set(0), 0, num_tokens))


def token_places(
    kv_lens: jax.Array, cu_q_lens: jax.Array, num_tokens: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(sequence i32[T], position in it i32[T], is_real bool[T]) of every row.

    Padding rows are not real: they count to the last sequence, at no position.
    """
    num_seqs = kv_lens.shape[0]
    starts = sequence_starts(cu_q_lens, num_seqs, num_tokens)
    seq = rows = jnp.arange(num_tokens, dtype=jnp.int32)
    if cu_q_lens.size:
        seq = jnp.searchsorted(starts[1:], rows, side="right").astype(jnp.int32)
    is_real = seq < num_seqs
    seq = jnp.minimum(seq, num_seqs - 1)
    return seq, kv_lens[seq] - starts[seq + 1] + rows, is_real


def attend(
    query: jax.Array,
    keys_of: Callable[[jax.Array], tuple[jax.Array, jax.Array, jax.Array]],
    kv_lens: jax.Array,
    cu_q_lens: jax.Array,
    k_scale: jax.Array,
    v_scale: jax.Array,
    sink: jax.Array,
    *,
    num_keys: int,
    head_dim_v: int,
    options: Any,
    arrays: Sequence[jax.Array] = (),
) -> list[jax.Array]:
    """Softmax attention of every row over the keys of its sequence.

    Args:
      query: [T, N, H].
      keys_of: sequence -> (k [S, K, H], v [S, K, Hv], exists bool[S]), S = num_keys.
      kv_lens: i32[B].
      cu_q_lens: i32[B + 1], or empty: one query each.
      k_scale: f32[K], or empty.
      v_scale: f32[K], or empty.
      sink: f32[N], or empty.
      num_keys: S.
      head_dim_v: Hv.
      options: AttentionOptions.
      arrays: those that its hooks read.

    Returns:
      [out [T, N, Hv], lse f32[T, N]]; 0 and -inf where nothing is visible.
    """
    num_tokens, num_heads, head_dim = query.shape
    mods = modifiers(options.hooks, arrays)
    left, right = options.window

    def attend_row(row):
        q, seq, position, real = row
        k, v, exists = keys_of(seq)
        num_kv_heads = k.shape[1]
        key = jnp.arange(num_keys)
        visible = real & exists & (key < kv_lens[seq])
        # Differences, because position + INT32_MAX would overflow.
        visible &= (position - key <= left) & (key - position <= right)
        if options.is_causal:
            visible &= key <= position
        q = mods.query(q, seq, position)
        exists = visible[:, None, None]
        k = jnp.where(exists, mods.key(jnp.where(exists, k, 0), seq), 0.0)
        v = jnp.where(exists, mods.value(jnp.where(exists, v, 0), seq), 0.0)
        q = q.reshape(num_kv_heads, -1, head_dim)
        scores = jnp.einsum("kgh,skh->kgs", q, k, precision="highest") * options.scale
        if k_scale.size:
            scores *= k_scale[:, None, None]
        if options.logits_soft_cap is not None:
            cap = options.logits_soft_cap
            scores = cap * jnp.tanh(scores / cap)
        scores = mods.score(scores, seq, position)
        visible = visible & mods.mask(scores.shape, seq, position)
        out, lse = weigh(scores, visible, v, options.use_softmax)
        if v_scale.size:
            out *= v_scale[:, None, None]
        out = out.reshape(num_heads, head_dim_v)
        lse = lse.reshape(num_heads)
        if sink.size:
            out *= sink_share(sink, lse)[:, None]
        out = jnp.where(real, mods.output(out, seq, position), 0.0)
        return out.astype(query.dtype), lse

    elements = num_keys * max(head_dim, head_dim_v) * 2 * num_heads
    return list(
        jax.lax.map(
            attend_row,
            (query, *token_places(kv_lens, cu_q_lens, num_tokens)),
            batch_size=max(1, min(num_tokens, _ELEMENTS_AT_ONCE // max(elements, 1))),
        )
    )


def weigh(
    scores: jax.Array, visible: jax.Array, v: jax.Array, use_softmax: bool
) -> tuple[jax.Array, jax.Array]:
    """Weighted sum of values: by softmax of the scores, or by the scores themselves.

    Args:
      scores: f32[K, G, S].
      visible: bool[S] or bool[K, G, S].
      v: f32[S, K, Hv], 0 where not visible.
      use_softmax: a static fact of the op.

    Returns:
      (out f32[K, G, Hv], lse f32[K, G]).
    """
    if not use_softmax:
        weights = jnp.where(visible, scores, 0.0)
        lse = jnp.zeros(scores.shape[:-1], jnp.float32)
    else:
        # Where nothing is visible, 0 / 1 and -inf: no NaN, in the derivative neither.
        some = visible.any(-1, keepdims=True)
        m = jnp.where(visible, scores, -jnp.inf).max(-1, keepdims=True)
        m = jax.lax.stop_gradient(jnp.where(some, m, 0.0))
        p = jnp.where(visible, jnp.exp(jnp.where(visible, scores - m, 0.0)), 0.0)
        total = jnp.where(some, p.sum(-1, keepdims=True), 1.0)
        weights = p / total
        lse = jnp.where(some, m + jnp.log(total), -jnp.inf)[..., 0]
    out = jnp.einsum("kgs,skh->kgh", weights, v, precision="highest")
    return out, lse


def sink_share(sink: jax.Array, lse: jax.Array) -> jax.Array:
    """The share of the probability that the sink leaves to the keys: f32[..., N]."""
    seen = lse > -jnp.inf
    return jnp.where(seen, jax.nn.sigmoid(jnp.where(seen, lse, 0.0) - sink), 1.0)
