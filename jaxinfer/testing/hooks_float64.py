# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""A variant in the float64 oracle: the user's functions, over all heads and keys."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class HooksFloat64:
    """Applies the functions of a variant to float64 arrays of one sequence.

    The functions compute in float32, as their definition says, and vectors are rounded
    to their own dtype. Nothing here knows how they are traced or emitted.

    Attributes:
      variant: jaxinfer.Variant or None.
      seq: number of the sequence.
      position: i64[q_len], where its queries stand.
    """

    variant: Any
    seq: int
    position: np.ndarray

    def query(self, q: np.ndarray, dtype: Any) -> np.ndarray:
        """[N, q_len, H]."""
        return self._of_vectors("query_mod", q, self.position, dtype)

    def output(self, out: np.ndarray) -> np.ndarray:
        """[N, q_len, Hv]."""
        return self._of_vectors("output_mod", out, self.position, np.float32)

    def key(self, k: np.ndarray, dtype: Any) -> np.ndarray:
        """[K, kv_len, H]."""
        return self._of_vectors("key_mod", k, np.arange(k.shape[1]), dtype)

    def value(self, v: np.ndarray, dtype: Any) -> np.ndarray:
        """[K, kv_len, Hv]."""
        return self._of_vectors("value_mod", v, np.arange(v.shape[1]), dtype)

    def score(self, scores: np.ndarray) -> np.ndarray:
        """[N, q_len, kv_len]."""
        if not self.has("score_mod"):
            return scores
        low = jnp.asarray(scores, jnp.float32)
        made = _over_scores(self.variant.score_mod, True)(low, *self._indices(scores))
        return np.asarray(made, np.float64)

    def mask(self, scores: np.ndarray) -> np.ndarray:
        """bool[N, q_len, kv_len]."""
        if not self.has("mask_mod"):
            return np.ones(scores.shape, bool)
        return np.asarray(
            _over_scores(self.variant.mask_mod, False)(*self._indices(scores))
        )

    def has(self, *names: str) -> bool:
        """Whether one of these functions is given."""
        return any(getattr(self.variant, name, None) is not None for name in names)

    def _indices(self, scores):
        num_heads, _, kv_len = scores.shape
        return self._int(self.seq), *map(
            self._int, (np.arange(num_heads), self.position, np.arange(kv_len))
        )

    def _of_vectors(self, name, x, positions, dtype):
        if not self.has(name):
            return x
        hook = jax.vmap(getattr(self.variant, name), (0, None, None, 0))
        hook = jax.jit(jax.vmap(hook, (0, None, 0, None)))
        heads = self._int(np.arange(x.shape[0]))
        low = jnp.asarray(x, jnp.float32)
        made = hook(low, self._int(self.seq), heads, self._int(positions))
        return np.asarray(made.astype(dtype)).astype(np.float64)

    @staticmethod
    def _int(x: Any) -> jax.Array:
        return jnp.asarray(x, jnp.int32)


def _over_scores(hook, has_score: bool):
    """Over [N, q_len, kv_len] of scores and [N], [q_len], [kv_len] of indices."""
    score = (0,) if has_score else ()
    for axes in ((None, None, None, 0), (None, None, 0, None), (None, 0, None, None)):
        hook = jax.vmap(hook, (*score, *axes))
    return jax.jit(hook)
