# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The same Llama without jaxinfer: jax.nn attention over whole sequences, no cache."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from generation import Generation
from llama import Llama, LlamaLayer
from sampling import Sampling, choose, sequence_keys


def full_hidden(model: Llama, tokens: jax.Array) -> jax.Array:
    """Runs one whole sequence i32[T]; returns [T, D]."""
    config = model.config
    angle = jnp.arange(tokens.shape[0])[:, None, None] * config.rope_theta ** (
        -jnp.arange(0, config.head_dim, 2) / config.head_dim
    )

    def heads(x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], -1, config.head_dim)

    def rotate(x: jax.Array) -> jax.Array:
        # A pair is a complex number, and its rotation a product.
        pairs = (-1, 2) if config.rope_is_interleaved else (2, -1)
        x = heads(x).astype(jnp.float32)
        split = x.reshape(*x.shape[:2], *pairs)
        re, im = jnp.moveaxis(split, -1 if config.rope_is_interleaved else -2, 0)
        turned = jax.lax.complex(re, im) * jnp.exp(1j * angle)
        axis = -1 if config.rope_is_interleaved else -2
        return jnp.stack([turned.real, turned.imag], axis).reshape(x.shape)

    def run_layer(x: jax.Array, layer: LlamaLayer) -> tuple[jax.Array, None]:
        attention, y = layer.attention, layer.attention_norm(x)
        value = heads(attention.value(y))
        attended = jax.nn.dot_product_attention(
            rotate(attention.query(y)).astype(value.dtype),
            rotate(attention.key(y)).astype(value.dtype),
            value,
            is_causal=True,
        )
        x = x + attention.out(attended.reshape(x.shape[0], -1))
        return x + layer.mlp(layer.mlp_norm(x)), None

    x, _ = jax.lax.scan(run_layer, model.embedding(tokens), model.layers)
    return model.norm(x)


@functools.partial(jax.jit, static_argnames="num_rows")
def full_logits(
    model: Llama, tokens: jax.Array, begin: jax.Array, num_rows: int
) -> jax.Array:
    """Logits f32[num_rows, V] of the positions from `begin` on."""
    hidden = full_hidden(model, tokens)
    return model.logits(jax.lax.dynamic_slice_in_dim(hidden, begin, num_rows))


@dataclasses.dataclass(frozen=True)
class Difference:
    """How a generated sequence compares with full attention.

    Attributes:
      max_logit_difference: the largest, over all generated positions and words.
      first_differing_token: its index among the new tokens; None = all are the same.
      margin: there, by how much full attention prefers its own token; else None.
    """

    max_logit_difference: float
    first_differing_token: int | None
    margin: float | None


def compare(
    model: Llama,
    prompts: Sequence[Sequence[int]],
    generation: Generation,
    sampling: Sampling,
    seed: int = 0,
    seq_ids: Sequence[int] | None = None,
) -> list[Difference]:
    """Draws every generated token again, from full attention over what precedes it.

    If all are the same, full attention alone would have generated this very text.

    Args:
      model: the network.
      prompts: as given to generate.
      generation: made with_logits.
      sampling: as given to generate.
      seed: as given to generate.
      seq_ids: as given to generate.
    """
    if generation.logits is None:
        raise ValueError("generation must be made with_logits=True, got no logits")
    seq_ids = list(range(len(prompts)) if seq_ids is None else seq_ids)
    keys = sequence_keys(seed, jnp.asarray(seq_ids, jnp.int32))
    num_rows = max(map(len, generation.tokens))
    length = max(map(len, prompts)) + num_rows  # one shape, compiled once
    draw = jax.jit(choose, static_argnames="sampling")
    differences = []
    for prompt, new, paged, key in zip(
        prompts, generation.tokens, generation.logits, keys, strict=True
    ):
        # What follows a position does not matter to it, so zeros may.
        tokens = np.zeros(length, np.int32)
        tokens[: len(prompt) + len(new)] = [*prompt, *new]
        full = full_logits(model, tokens, len(prompt) - 1, num_rows)
        positions = len(prompt) + jnp.arange(num_rows, dtype=jnp.int32)
        same_key = jnp.broadcast_to(key, num_rows)
        drawn = np.asarray(draw(full, same_key, positions, sampling=sampling))
        full = np.asarray(full)[: len(new)]
        wrong = np.flatnonzero(drawn[: len(new)] != new)
        first = int(wrong[0]) if wrong.size else None
        differences.append(
            Difference(
                float(np.abs(full - paged).max()),
                first,
                None
                if first is None
                else float(full[first, drawn[first]] - full[first, new[first]]),
            )
        )
    return differences
