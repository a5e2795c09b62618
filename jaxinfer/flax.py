# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Flax NNX modules on top of the ops. Needs flax: pip install 'jaxinfer[flax]'."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes

from jaxinfer.cache import PagedKVCache
from jaxinfer.ops.dot_product_attention import dot_product_attention
from jaxinfer.ops.ragged_paged_attention import ragged_paged_attention
from jaxinfer.ops.rope import rope
from jaxinfer.ragged_batch import RaggedBatch

__all__ = ["PagedAttention", "RaggedBatch", "attention_fn"]

_default_kernel_init = nnx.initializers.lecun_normal()


class PagedAttention(nnx.Module):
    """Multi-head attention of packed tokens over a paged KV cache.

    Projects, rotates queries and keys, appends keys and values to the cache in place,
    attends and projects back. Holds parameters only: the cache goes in and comes out,
    so that one donated array of all layers can be the carry of a scan over layers.

    Attributes:
      query: nnx.Linear, D -> N * H.
      key: nnx.Linear, D -> K * H.
      value: nnx.Linear, D -> K * H.
      out: nnx.Linear, N * H -> out_features.
      attention_sink: nnx.Param f32[N], or None.
    """

    def __init__(
        self,
        in_features: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        out_features: int | None = None,
        *,
        rope_theta: float | None = 10000.0,
        rope_dim: int | None = None,
        rope_is_interleaved: bool = False,
        is_causal: bool = True,
        scale: float | None = None,
        local_window_size: int | tuple[int | None, int | None] | None = None,
        logits_soft_cap: float | None = None,
        use_attention_sink: bool = False,
        use_bias: bool = False,
        use_out_bias: bool | None = None,
        implementation: str | None = None,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: Any = None,
        kernel_init: Any = _default_kernel_init,
        rngs: nnx.Rngs,
    ):
        """Makes the projections.

        Args:
          in_features: D.
          num_heads: N.
          num_kv_heads: K; None = N.
          head_dim: H; None = D / N.
          out_features: None = D.
          rope_theta: base of the rotary frequencies; None = no rotation.
          rope_dim: leading elements of a head that rotate; None = all.
          rope_is_interleaved: pairs of neighbours; see jaxinfer.rope.
          is_causal: as in ragged_paged_attention.
          scale: as in ragged_paged_attention.
          local_window_size: as in ragged_paged_attention; the batch must be planned
            for it.
          logits_soft_cap: as in ragged_paged_attention.
          use_attention_sink: learn one, f32[N], zero at first.
          use_bias: of the projections to queries, keys and values.
          use_out_bias: of the last projection; None = use_bias.
          implementation: as in ragged_paged_attention.
          dtype: of the computation; None = promoted from input and parameters.
          param_dtype: of the parameters.
          precision: of the projections.
          kernel_init: initializer of the projections.
          rngs: for the initializers.
        """
        if head_dim is None:
            if in_features % num_heads:
                raise ValueError(
                    "head_dim must be given where num_heads does not divide "
                    f"in_features, got num_heads={num_heads}, in_features={in_features}"
                )
            head_dim = in_features // num_heads
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.rope_theta = rope_theta
        self.rope_dim = rope_dim
        self.rope_is_interleaved = rope_is_interleaved
        self.is_causal = is_causal
        self.scale = scale
        self.local_window_size = local_window_size
        self.logits_soft_cap = logits_soft_cap
        self.implementation = implementation
        linear = functools.partial(
            nnx.Linear,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            kernel_init=kernel_init,
            rngs=rngs,
        )
        self.query = linear(in_features, num_heads * head_dim, use_bias=use_bias)
        self.key = linear(in_features, num_kv_heads * head_dim, use_bias=use_bias)
        self.value = linear(in_features, num_kv_heads * head_dim, use_bias=use_bias)
        self.out = linear(
            num_heads * head_dim,
            in_features if out_features is None else out_features,
            use_bias=use_bias if use_out_bias is None else use_out_bias,
        )
        sink = nnx.Param(jnp.zeros(num_heads)) if use_attention_sink else None
        self.attention_sink = nnx.data(sink)

    def __call__(
        self, x: Any, cache: PagedKVCache, batch: RaggedBatch, layer: Any = 0
    ) -> tuple[jax.Array, PagedKVCache]:
        """Attends, with the keys and values of these tokens in the cache.

        Args:
          x: [T, D], packed as batch.cu_q_lens says.
          cache: with K heads of H; donate it, or carry it through a scan.
          batch: of this step.
          layer: i32[], which layer of the cache is this module's; may be traced.

        Returns:
          (y [T, out_features], the cache with this step's keys and values).

        Raises:
          ValueError: as ragged_paged_attention and update_kv_pages do, e.g. for a
            batch that was planned for another window.
        """
        layer = jnp.asarray(layer, jnp.int32)
        query = self.query(x).reshape(-1, self.num_heads, self.head_dim)
        key = self.key(x).reshape(-1, self.num_kv_heads, self.head_dim)
        value = self.value(x).reshape(-1, self.num_kv_heads, self.head_dim)
        if self.rope_theta is not None:
            rotate = functools.partial(
                rope,
                positions=batch.positions,
                theta=self.rope_theta,
                rotary_dim=self.rope_dim,
                is_interleaved=self.rope_is_interleaved,
            )
            query, key = rotate(query), rotate(key)
        cache = cache.append(
            layer,
            key,
            value,
            slot_mapping=batch.slots,
            implementation=self.implementation,
        )
        sink = self.attention_sink
        attended = ragged_paged_attention(
            query,
            cache.k_pages,
            cache.v_pages,
            batch.page_table,
            batch.kv_lens,
            batch.cu_q_lens,
            layer=layer,
            plan=batch.plan,
            attention_sink=None if sink is None else sink[...].astype(jnp.float32),
            is_causal=self.is_causal,
            scale=self.scale,
            local_window_size=self.local_window_size,
            logits_soft_cap=self.logits_soft_cap,
            implementation=self.implementation,
        )
        return self.out(attended.reshape(x.shape[0], -1)), cache


def attention_fn(
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    mask: Any = None,
    *,
    dropout_rng: Any = None,
    dropout_rate: float = 0.0,
    broadcast_dropout: bool = True,
    deterministic: bool = False,
    dtype: Any = None,
    precision: Any = None,
    module: Any = None,
    is_causal: bool = False,
    implementation: str | None = None,
) -> jax.Array:
    """Use as nnx.MultiHeadAttention(attention_fn=): jaxinfer.dot_product_attention.

    For dense keys, decode mode included. A paged cache needs PagedAttention, since this
    hook sees neither positions nor lengths.

    Example:
      >>> nnx.MultiHeadAttention(num_heads=4, in_features=256, decode=False,
      ...                        attention_fn=attention_fn, rngs=nnx.Rngs(0))

    Args:
      query: [batch..., T, N, H].
      key: [batch..., S, K, H].
      value: [batch..., S, K, H].
      bias: broadcastable to [batch..., N, T, S].
      mask: broadcastable to [batch..., N, T, S]; nonzero = visible.
      dropout_rng: unused.
      dropout_rate: of the weights; must be 0 unless deterministic.
      broadcast_dropout: unused.
      deterministic: no dropout.
      dtype: of the computation; None = promoted from the inputs.
      precision: unused: products are accumulated in float32.
      module: must be None: the weights are never stored, so none can be sown.
      is_causal: query t sees keys 0 .. t.
      implementation: as in jaxinfer.dot_product_attention; functools.partial sets it.

    Returns:
      [batch..., T, N, H].

    Raises:
      NotImplementedError: for dropout, for sowing the weights, or for a head_dim that
        no kernel has.
      ValueError: as jaxinfer.dot_product_attention does.
    """
    del dropout_rng, broadcast_dropout, precision
    if dropout_rate > 0.0 and not deterministic:
        raise NotImplementedError(
            "dropout_rate must be 0 unless deterministic=True: jaxinfer has no dropout "
            f"of attention weights, got dropout_rate={dropout_rate}"
        )
    if module is not None:
        raise NotImplementedError(
            "module must be None (sow_weights=False): jaxinfer never stores attention "
            f"weights, so none can be sown, got {type(module).__name__}"
        )
    query, key, value = dtypes.promote_dtype((query, key, value), dtype=dtype)
    batch = query.shape[:-3]

    def flat(x):
        x = x.reshape((1,) * (len(batch) + 3 - x.ndim) + x.shape)
        if x.shape[:-3] != batch and any(size != 1 for size in x.shape[:-3]):
            x = jnp.broadcast_to(x, (*batch, *x.shape[-3:]))
        return x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:])

    out = dot_product_attention(
        flat(query),
        flat(key),
        flat(value),
        None if bias is None else flat(jnp.asarray(bias)),
        None if mask is None else flat(jnp.asarray(mask).astype(bool)),
        is_causal=is_causal,
        implementation=implementation,
    )
    return out.reshape(query.shape)
