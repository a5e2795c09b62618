# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The hooks of a variant as JAX functions, applied to all heads of a query row."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Modifiers:
    """What happens to the values of one row; hooks that are absent change nothing.

    Vectors are computed in float32 and rounded to their own type, as the cache and the
    query are: a kernel multiplies them in that type.

    Attributes:
      hooks: name -> function of one score or one vector.
    """

    hooks: Mapping[str, Callable[..., Any]]

    def query(self, vectors: jax.Array, b: Any, q_idx: Any) -> jax.Array:
        """[N, H] -> f32[N, H]."""
        return self._of_row("query_mod", vectors, b, q_idx)

    def output(self, vectors: jax.Array, b: Any, q_idx: Any) -> jax.Array:
        """f32[N, Hv] -> f32[N, Hv]."""
        return self._of_row("output_mod", vectors, b, q_idx)

    def key(self, vectors: jax.Array, b: Any) -> jax.Array:
        """[S, K, H] -> f32[S, K, H]."""
        return self._of_keys("key_mod", vectors, b)

    def value(self, vectors: jax.Array, b: Any) -> jax.Array:
        """[S, K, Hv] -> f32[S, K, Hv]."""
        return self._of_keys("value_mod", vectors, b)

    def score(self, scores: jax.Array, b: Any, q_idx: Any) -> jax.Array:
        """f32[K, G, S] -> f32[K, G, S]."""
        if "score_mod" not in self.hooks:
            return scores
        heads, keys = _heads_and_keys(scores.shape)
        axes = (0, None, None, None, 0), (0, None, 0, None, None)
        return _over(self.hooks["score_mod"], axes)(
            scores.reshape(heads.size, keys.size), b, heads, q_idx, keys
        ).reshape(scores.shape)

    def mask(self, shape: Sequence[int], b: Any, q_idx: Any) -> Any:
        """bool[K, G, S] of that shape, or True."""
        if "mask_mod" not in self.hooks:
            return True
        heads, keys = _heads_and_keys(shape)
        axes = (None, None, None, 0), (None, 0, None, None)
        mask = _over(self.hooks["mask_mod"], axes)(b, heads, q_idx, keys)
        return mask.reshape(shape)

    def _of_row(self, name, vectors, b, q_idx):
        vectors, dtype = vectors.astype(jnp.float32), vectors.dtype
        if name not in self.hooks:
            return vectors
        heads = jnp.arange(vectors.shape[0], dtype=jnp.int32)
        made = _over(self.hooks[name], [(0, None, 0, None)])(vectors, b, heads, q_idx)
        return made.astype(dtype).astype(jnp.float32)

    def _of_keys(self, name, vectors, b):
        vectors, dtype = vectors.astype(jnp.float32), vectors.dtype
        if name not in self.hooks:
            return vectors
        keys, heads = (jnp.arange(n, dtype=jnp.int32) for n in vectors.shape[:2])
        axes = (0, None, 0, None), (0, None, None, 0)
        made = _over(self.hooks[name], axes)(vectors, b, heads, keys)
        return made.astype(dtype).astype(jnp.float32)


def modifiers(hooks: Any, arrays: Sequence[jax.Array]) -> Modifiers:
    """Those of Hooks that read these arrays; of None, none."""
    return Modifiers({} if hooks is None else hooks.functions(arrays))


def _over(hook, axes):
    """vmap over one axis of arguments after the other, the innermost first."""
    for in_axes in axes:
        hook = jax.vmap(hook, in_axes)
    return hook


def _heads_and_keys(shape):
    """Numbers of all query heads and keys of scores [K, G, S]."""
    num_kv_heads, group, num_keys = shape
    heads = jnp.arange(num_kv_heads * group, dtype=jnp.int32)
    return heads, jnp.arange(num_keys, dtype=jnp.int32)
