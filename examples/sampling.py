# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The next token from logits: greedy, temperature, top-k, top-p."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; static, so each combination compiles once.

    Attributes:
      temperature: divides the logits; 0 = greedy, the other fields are then unused.
      top_k: draw from the k most probable tokens; None = all.
      top_p: draw from the fewest tokens, the most probable first, that together have
        at least this probability after temperature and top_k; None = all.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be >= 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be None or >= 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be None or in (0, 1], got {self.top_p}")


def sequence_keys(seed: int, seq_ids: jax.Array) -> jax.Array:
    """One random key for each sequence, key[B], by its id i32[B] and not by its row."""
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(seq_ids)


def candidates(logits: jax.Array, sampling: Sampling) -> tuple[jax.Array, jax.Array]:
    """The tokens that may be drawn.

    Args:
      logits: f32[B, V].
      sampling: with a temperature above 0.

    Returns:
      (scores f32[B, C], ids i32[B, C]), the most probable token first and equal ones
      by id; scores are logits / temperature, -inf for tokens that top_p rules out.
    """
    size = logits.shape[-1]
    scores = logits / sampling.temperature
    # Rounded sums reach 1 before the last tokens: a top_p of 1 must not look at them.
    top_p = None if sampling.top_p == 1 else sampling.top_p
    if sampling.top_k is None and top_p is None:
        return scores, jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), scores.shape)
    scores, ids = jax.lax.top_k(scores, min(sampling.top_k or size, size))
    if top_p is not None:
        shares = jax.nn.softmax(scores, axis=-1)
        # A token is needed if those before it do not have enough yet.
        before = jnp.cumsum(shares, axis=-1) - shares
        scores = jnp.where(before < top_p, scores, -jnp.inf)
    return scores, ids


def choose(
    logits: jax.Array, keys: jax.Array, positions: jax.Array, sampling: Sampling
) -> jax.Array:
    """Draws the next token of every sequence.

    The noise belongs to a sequence's key, the position and the token's id, so what else
    is in the batch does not matter.

    Args:
      logits: f32[B, V].
      keys: key[B] of sequence_keys.
      positions: i32[B], where the token will stand.
      sampling: how.

    Returns:
      i32[B].
    """
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    scores, ids = candidates(logits, sampling)

    def noise(key, position):
        return jax.random.gumbel(jax.random.fold_in(key, position), logits.shape[-1:])

    # The largest score after Gumbel noise is a draw from their softmax.
    noises = jnp.take_along_axis(jax.vmap(noise)(keys, positions), ids, axis=-1)
    best = jnp.argmax(scores + noises, axis=-1, keepdims=True)
    return jnp.take_along_axis(ids, best, axis=-1)[:, 0]
