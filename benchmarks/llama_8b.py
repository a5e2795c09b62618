# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""A decode step in the shape of Llama-3.1-8B, in Flax NNX, with random weights."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import jaxinfer as ji
from benchmarks.decode_pool import normal
from jaxinfer.flax import PagedAttention, RaggedBatch

_DTYPE = jnp.bfloat16


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of a model; by default those of Llama-3.1-8B."""

    num_layers: int = 32
    hidden: int = 4096
    mlp: int = 14336
    num_q_heads: int = 32
    num_kv_heads: int = 8
    head_dim: int = 128
    vocab: int = 128256

    @property
    def kv_bytes_per_token(self) -> int:
        """Of K and V in all layers."""
        return 2 * 2 * self.num_layers * self.num_kv_heads * self.head_dim


TINY = Sizes(2, 64, 96, 4, 2, 64, 128)


class Layer(nnx.Module):
    """Attention and a gated MLP, each behind a norm and beside a residual."""

    def __init__(self, sizes: Sizes, rngs: nnx.Rngs):
        linear = functools.partial(
            nnx.Linear, use_bias=False, dtype=_DTYPE, param_dtype=_DTYPE, rngs=rngs
        )
        norm = functools.partial(
            nnx.RMSNorm, sizes.hidden, dtype=_DTYPE, param_dtype=_DTYPE, rngs=rngs
        )
        self.attention_norm = norm()
        self.attention = PagedAttention(
            sizes.hidden,
            sizes.num_q_heads,
            sizes.num_kv_heads,
            sizes.head_dim,
            rope_theta=500000.0,
            dtype=_DTYPE,
            param_dtype=_DTYPE,
            rngs=rngs,
        )
        self.mlp_norm = norm()
        self.gate = linear(sizes.hidden, sizes.mlp)
        self.up = linear(sizes.hidden, sizes.mlp)
        self.down = linear(sizes.mlp, sizes.hidden)

    def __call__(
        self, x: jax.Array, cache: ji.PagedKVCache, batch: RaggedBatch, layer: Any
    ) -> tuple[jax.Array, ji.PagedKVCache]:
        y, cache = self.attention(self.attention_norm(x), cache, batch, layer)
        x = x + y
        y = self.mlp_norm(x)
        return x + self.down(nnx.silu(self.gate(y)) * self.up(y)), cache


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["embedding", "layers", "norm", "head"],
    meta_fields=["sizes"],
)
@dataclasses.dataclass(frozen=True)
class Model:
    """All weights.

    Attributes:
      sizes: static.
      embedding: [V, D].
      layers: a list of Layer, or one with a leading axis of layers on each weight.
      norm: [D].
      head: [D, V].
    """

    sizes: Sizes
    embedding: Any
    layers: Any
    norm: Any
    head: Any

    @classmethod
    def create(cls, sizes: Sizes, is_scanned: bool) -> "Model":
        """Random weights, drawn on the device."""
        shapes = jax.eval_shape(lambda: Layer(sizes, nnx.Rngs(0)))
        keys = iter(jax.random.split(jax.random.key(0), 2048))

        def draw(shape):
            scale = 1 / math.sqrt(shape[-2])
            return normal(next(keys), shape, scale, "bfloat16")

        def layer(lead=()):
            def weight(x):
                if x.ndim == 1:
                    return jnp.ones((*lead, *x.shape), x.dtype)
                return draw((*lead, *x.shape))

            return jax.tree.map(weight, shapes)

        return cls(
            sizes,
            draw((sizes.vocab, sizes.hidden)),
            layer((sizes.num_layers,))
            if is_scanned
            else [layer() for _ in range(sizes.num_layers)],
            jnp.ones(sizes.hidden, _DTYPE),
            draw((sizes.hidden, sizes.vocab)),
        )

    @property
    def bytes_per_step(self) -> int:
        """Of the weights that a step reads; of the embedding it reads a few rows."""
        leaves = jax.tree.leaves((self.layers, self.norm, self.head))
        return sum(x.nbytes for x in leaves)

    def step(
        self, cache: Any, tokens: Any, page_table: Any, kv_lens: Any, plan: Any
    ) -> tuple[Any, jax.Array]:
        """One token for each sequence.

        Args:
          cache: PagedKVCache of all layers, or a list of one for each layer.
          tokens: i32[B].
          page_table: i32[B, max_pages].
          kv_lens: i32[B], this step's token included.
          plan: None = made here, for all layers.

        Returns:
          (cache, the most likely next tokens i32[B]).
        """
        stacked = cache[0] if isinstance(cache, list) else cache
        batch = RaggedBatch.create(
            stacked,
            page_table,
            kv_lens,
            num_tokens=tokens.shape[0],
            num_q_heads=self.sizes.num_q_heads,
        )
        if plan is not None:
            batch = dataclasses.replace(batch, plan=plan)
        x = self.embedding[tokens]
        if isinstance(self.layers, Layer):
            numbers = jnp.arange(self.sizes.num_layers, dtype=jnp.int32)

            def run(carry, xs):
                layer, number = xs
                return layer(*carry, batch, number), None

            (x, cache), _ = jax.lax.scan(run, (x, cache), (self.layers, numbers))
        elif isinstance(cache, list):
            cache = list(cache)
            for i, layer in enumerate(self.layers):
                x, cache[i] = layer(x, cache[i], batch, jnp.int32(0))
        else:
            for i, layer in enumerate(self.layers):
                x, cache = layer(x, cache, batch, jnp.int32(i))
        mean = jnp.mean(jnp.square(x.astype(jnp.float32)), -1, keepdims=True)
        x = (x * jax.lax.rsqrt(mean + 1e-5)).astype(_DTYPE) * self.norm
        logits = jnp.dot(x, self.head, preferred_element_type=jnp.float32)
        return cache, jnp.argmax(logits, axis=-1).astype(jnp.int32)
