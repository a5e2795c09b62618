# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""PagedKVCache: keys and values of all layers, in pages."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxinfer.ops.update_kv_pages import update_kv_pages


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["k_pages", "v_pages"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class PagedKVCache:
    """The cache of a model: one array for K and one for V, all layers stacked.

    A value: `append` returns the new cache. Donate it to jit, or carry it through
    scan, and the pages stay where they are.

    Attributes:
      k_pages: [L, P, page_size, K, H].
      v_pages: [L, P, page_size, K, Hv].
    """

    k_pages: Any
    v_pages: Any

    @classmethod
    def create(
        cls,
        *,
        num_layers: int,
        num_pages: int,
        page_size: int,
        num_kv_heads: int,
        head_dim: int,
        head_dim_v: int | None = None,
        dtype: Any = jnp.bfloat16,
        num_shards: int = 1,
        sharding: jax.sharding.Sharding | None = None,
    ) -> "PagedKVCache":
        """Makes an empty cache.

        Args:
          num_layers: L.
          num_pages: P.
          page_size: tokens in a page.
          num_kv_heads: K of the model.
          head_dim: H.
          head_dim_v: Hv; None = H.
          dtype: of keys and values.
          num_shards: over how many devices the KV heads will be sharded. With more
            shards than heads the head axis has one head per shard: shard s stores
            head s * K // num_shards, the one that it uses.
          sharding: of both arrays, e.g. NamedSharding over the head axis (axis 3).

        Raises:
          ValueError: if a shard would hold parts of two head groups.
        """
        heads = sharded_kv_heads(num_kv_heads, num_shards)
        shape = (num_layers, num_pages, page_size, heads)
        return cls(
            jnp.zeros((*shape, head_dim), dtype, device=sharding),
            jnp.zeros((*shape, head_dim_v or head_dim), dtype, device=sharding),
        )

    @property
    def num_layers(self) -> int:
        """L."""
        return self.k_pages.shape[0]

    @property
    def num_pages(self) -> int:
        """P."""
        return self.k_pages.shape[1]

    @property
    def page_size(self) -> int:
        """Tokens in a page."""
        return self.k_pages.shape[2]

    def append(self, layer: Any, key: Any, value: Any, **where: Any) -> "PagedKVCache":
        """Writes the keys and values of new tokens of one layer, in place.

        Args:
          layer: i32[].
          key: [T, K, H], cast to the cache's dtype.
          value: [T, K, Hv], cast to the cache's dtype.
          **where: slot_mapping, or page_table, kv_lens and cu_q_lens, as in
            update_kv_pages.

        Returns:
          The cache with these tokens.
        """
        k_pages, v_pages = update_kv_pages(
            self.k_pages,
            self.v_pages,
            key.astype(self.k_pages.dtype),
            value.astype(self.v_pages.dtype),
            layer=layer,
            **where,
        )
        return PagedKVCache(k_pages, v_pages)


def sharded_kv_heads(num_kv_heads: int, num_shards: int) -> int:
    """Size of the head axis of a cache sharded over heads: max(K, num_shards).

    Raises:
      ValueError: unless one of the two divides the other.
    """
    if num_shards < 1 or (num_kv_heads % num_shards and num_shards % num_kv_heads):
        raise ValueError(
            "num_shards must divide num_kv_heads or be a multiple of it, so that no "
            f"shard spans two head groups; got {num_shards} shards for {num_kv_heads} "
            "KV heads"
        )
    return max(num_kv_heads, num_shards)


def own_kv_heads(x: Any, axis_name: str) -> jax.Array:
    """Inside shard_map, the KV heads that this shard stores.

    For keys and values that every shard holds whole because there are more shards than
    KV heads; no communication.

    Args:
      x: [..., K, H], the keys or values of all KV heads.
      axis_name: the mesh axis that query heads are sharded over.

    Returns:
      [..., max(K // shards, 1), H].

    Raises:
      ValueError: if a shard would span two head groups.
    """
    num_shards, num_heads = jax.lax.axis_size(axis_name), x.shape[-2]
    held = sharded_kv_heads(num_heads, num_shards) // num_shards
    first = jax.lax.axis_index(axis_name) * num_heads // num_shards
    return jax.lax.dynamic_slice_in_dim(x, first, held, axis=-2)
