# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Llama in Flax NNX over a paged KV cache: the model of these examples."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import jaxinfer as ji
from jaxinfer.flax import PagedAttention, RaggedBatch


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Sizes and constants of a Llama, as a GGUF file or config.json names them."""

    num_layers: int
    hidden_size: int
    mlp_size: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_is_interleaved: bool = False

    def make_cache(self, num_pages: int, page_size: int, dtype: Any) -> ji.PagedKVCache:
        """An empty cache of all layers."""
        return ji.PagedKVCache.create(
            num_layers=self.num_layers,
            num_pages=num_pages,
            page_size=page_size,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            dtype=dtype,
        )


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LlamaConfig, *, dtype: Any, rngs: nnx.Rngs):
        linear = functools.partial(
            nnx.Linear, use_bias=False, dtype=dtype, param_dtype=dtype, rngs=rngs
        )
        self.gate = linear(config.hidden_size, config.mlp_size)
        self.up = linear(config.hidden_size, config.mlp_size)
        self.down = linear(config.mlp_size, config.hidden_size)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(nnx.silu(self.gate(x)) * self.up(x))


class LlamaLayer(nnx.Module):
    """Attention and MLP, each behind a norm and beside a residual."""

    def __init__(self, config: LlamaConfig, *, dtype: Any, rngs: nnx.Rngs):
        self.attention_norm = _norm(config, dtype, rngs)
        self.attention = PagedAttention(
            config.hidden_size,
            config.num_q_heads,
            config.num_kv_heads,
            config.head_dim,
            rope_theta=config.rope_theta,
            rope_is_interleaved=config.rope_is_interleaved,
            dtype=dtype,
            param_dtype=dtype,
            rngs=rngs,
        )
        self.mlp_norm = _norm(config, dtype, rngs)
        self.mlp = SwiGLU(config, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: jax.Array, cache: ji.PagedKVCache, batch: RaggedBatch, layer: Any
    ) -> tuple[jax.Array, ji.PagedKVCache]:
        y, cache = self.attention(self.attention_norm(x), cache, batch, layer)
        x = x + y
        return x + self.mlp(self.mlp_norm(x)), cache


class Llama(nnx.Module):
    """A Llama with tied embeddings.

    The parameters of all layers are stacked, and the layers run as one scan whose
    carry is the cache: it compiles in the time of one layer and copies no page.
    """

    def __init__(
        self, config: LlamaConfig, *, dtype: Any = jnp.float32, rngs: nnx.Rngs
    ):
        @nnx.split_rngs(splits=config.num_layers)
        @nnx.vmap
        def make_layers(rngs: nnx.Rngs) -> LlamaLayer:
            return LlamaLayer(config, dtype=dtype, rngs=rngs)

        self.config = config
        self.dtype = dtype
        self.embedding = nnx.Embed(
            config.vocab_size,
            config.hidden_size,
            dtype=dtype,
            param_dtype=dtype,
            rngs=rngs,
        )
        self.layers = make_layers(rngs)
        self.norm = _norm(config, dtype, rngs)

    def __call__(
        self, tokens: Any, cache: ji.PagedKVCache, batch: RaggedBatch
    ) -> tuple[jax.Array, ji.PagedKVCache]:
        """Runs packed tokens i32[T]; returns (hidden [T, D], cache)."""

        def run_layer(carry, xs):
            layer_params, layer = xs
            return layer_params(*carry, batch, layer), None

        numbers = jnp.arange(self.config.num_layers, dtype=jnp.int32)
        x = self.embedding(tokens)
        (x, cache), _ = jax.lax.scan(run_layer, (x, cache), (self.layers, numbers))
        return self.norm(x), cache

    def logits(self, hidden: jax.Array) -> jax.Array:
        """hidden [..., D] -> f32[..., V]."""
        return self.embedding.attend(hidden).astype(jnp.float32)


def _norm(config: LlamaConfig, dtype: Any, rngs: nnx.Rngs) -> nnx.RMSNorm:
    return nnx.RMSNorm(
        config.hidden_size,
        epsilon=config.rms_norm_eps,
        dtype=dtype,
        param_dtype=dtype,
        rngs=rngs,
    )
