# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Named variants of attention, each a few lines of the language that users have too.

Every function returns a jaxinfer.Variant; `&` combines them. Ops are causal unless told
otherwise: pass is_causal=False with masks that show keys behind the query.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxinfer.ops.rope import rope_frequencies
from jaxinfer.variant import Variant


def causal() -> Variant:
    """A query at position p sees keys 0 .. p."""
    return Variant(local_window_size=(None, 0))


def sliding_window(left: int, right: int = 0) -> Variant:
    """A query at position p sees keys p - left .. p + right; others are not read."""
    return Variant(local_window_size=(left, right))


def sink_tokens(num_sinks: int, window: int) -> Variant:
    """The first keys, and the last `window` up to the query (StreamingLLM's mask)."""
    return Variant(
        mask_mod=lambda b, h, q_idx, kv_idx: (
            (kv_idx < num_sinks) | (q_idx - kv_idx < window)
        )
    )


def prefix_lm(prefix_lens: Any) -> Variant:
    """Keys of the prefix, i32[B] long, are seen by all; those behind it causally."""
    return Variant(
        mask_mod=lambda b, h, q_idx, kv_idx: (
            (kv_idx < prefix_lens[b]) | (kv_idx <= q_idx)
        )
    )


def documents(ids: Any) -> Variant:
    """Tokens see those of their own document; ids i32[B, S], by position."""
    return Variant(mask_mod=lambda b, h, q_idx, kv_idx: ids[b, q_idx] == ids[b, kv_idx])


def packed_mask(bits: Any) -> Variant:
    """Any mask: bit kv_idx % 8 of bits u8[B, Q, ceil(S / 8)], lowest first.

    `numpy.packbits(mask, axis=-1, bitorder="little")` makes it; q_idx counts Q.
    """
    return Variant(
        mask_mod=lambda b, h, q_idx, kv_idx: (
            (bits[b, q_idx, kv_idx // 8] >> (kv_idx % 8).astype(bits.dtype)) & 1 != 0
        )
    )


def tree(ancestors: Any, context_lens: Any) -> Variant:
    """Speculative decoding: draft token i sees the context and its own ancestors.

    Args:
      ancestors: bool[B, D, D], [b, i, j]: j is on the path to i; of itself too.
      context_lens: i32[B], keys before the draft.
    """

    def mask_mod(b, h, q_idx, kv_idx):
        first = context_lens[b]
        return (kv_idx < first) | ancestors[b, q_idx - first, kv_idx - first]

    return Variant(mask_mod=mask_mod)


def soft_cap(cap: float) -> Variant:
    """Logits between -cap and cap (Gemma 2)."""
    return Variant(score_mod=lambda score, *_: cap * jnp.tanh(score / cap))


def alibi(slopes: Any) -> Variant:
    """Logits fall with the distance, by slopes f32[N] (arXiv 2108.12409)."""
    return Variant(
        score_mod=lambda score, b, h, q_idx, kv_idx: (
            score + slopes[h] * (kv_idx - q_idx)
        )
    )


def t5_bias(table: Any, max_distance: int = 128) -> Variant:
    """A learned bias of the distance to earlier keys: table f32[buckets, N] (T5).

    Half of the buckets are for distances of their own, the others grow as powers.
    """
    num_buckets = table.shape[0]
    exact = num_buckets // 2
    steps = (num_buckets - exact) / jnp.log(max_distance / exact)

    def score_mod(score, b, h, q_idx, kv_idx):
        distance = jnp.maximum(q_idx - kv_idx, 0)
        far = exact + jnp.log(jnp.maximum(distance, 1) / exact) * steps
        far = jnp.minimum(far.astype(jnp.int32), num_buckets - 1)
        return score + table[jnp.where(distance < exact, distance, far), h]

    return Variant(score_mod=score_mod)


def sigmoid(bias: Any = 0.0) -> Variant:
    """Weights are the sigmoid of score + bias (FlashSigmoid, arXiv 2409.04431)."""
    return Variant(
        score_mod=lambda score, *_: jax.nn.sigmoid(score + bias), use_softmax=False
    )


def rope(
    head_dim: int,
    theta: float = 10000.0,
    *,
    rotary_dim: int | None = None,
    scaling: Any = None,
    is_interleaved: bool = False,
) -> Variant:
    """Rotates queries and keys inside the kernel; the cache holds keys as they came.

    Arguments as of jaxinfer.rope; elements past rotary_dim stay. (FlashInfer, 4.3.)
    """
    frequencies = jnp.asarray(rope_frequencies(head_dim, theta, rotary_dim, scaling))
    size = 2 * frequencies.size

    def turn(x, position):
        angle = position * frequencies
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        if is_interleaved:
            a, b = x[:size:2], x[1:size:2]
            turned = jnp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(size)
        else:
            a, b = x[: size // 2], x[size // 2 : size]
            turned = jnp.concatenate([a * cos - b * sin, a * sin + b * cos])
        return jnp.concatenate([turned, x[size:]])

    return Variant(
        query_mod=lambda x, b, h, q_idx: turn(x, q_idx),
        key_mod=lambda x, b, h, kv_idx: turn(x, kv_idx),
    )


def streaming_llm(
    head_dim: int, num_sinks: int, window: int, theta: float = 10000.0
) -> Variant:
    """Sink tokens and a window, rotated by their places in the cache.

    The cache keeps the sinks and the last tokens only, so that positions never grow
    (StreamingLLM, arXiv 2309.17453; FlashInfer, section 4.3).
    """
    return rope(head_dim, theta) & sink_tokens(num_sinks, window)


def logit_dump(first_key: int = 0) -> Variant:
    """For debugging: element i of a result is the logit of key first_key + i.

    Hidden keys have 0. Comes after other variants: `alibi(slopes) & logit_dump()`.
    """

    def value_mod(x, b, h, kv_idx):
        return jnp.where(jnp.arange(x.size) == kv_idx - first_key, 1.0, 0.0)

    return Variant(value_mod=value_mod, use_softmax=False)
