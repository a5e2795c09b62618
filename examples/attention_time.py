# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""How long the attention of a decode loop takes, measured by replaying it alone."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from generation import Generation
from llama import LlamaConfig

import jaxinfer as ji
from jaxinfer.flax import RaggedBatch


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache")
def replay(
    config: LlamaConfig,
    cache: ji.PagedKVCache,
    query: jax.Array,
    key: jax.Array,
    page_table: jax.Array,
    prompt_lens: jax.Array,
    kv_lens: jax.Array,
    num_steps: jax.Array,
) -> tuple[ji.PagedKVCache, jax.Array]:
    """The attention of a decode loop: per step a plan, per layer append and attention.

    query [B, N, H] and key [B, K, H] stand for those of every step and layer.
    """

    def step(i, carry):
        lens = jnp.minimum(prompt_lens + i + 1, kv_lens)
        batch = RaggedBatch.create(
            carry[0],
            page_table,
            lens,
            num_tokens=query.shape[0],
            num_q_heads=config.num_q_heads,
            is_active=prompt_lens + i + 1 <= kv_lens,
        )

        def layer(layer, carry):
            cache, query = carry
            cache = cache.append(layer, key, key, slot_mapping=batch.slots)
            return cache, ji.ragged_paged_attention(
                query,
                cache.k_pages,
                cache.v_pages,
                batch.page_table,
                batch.kv_lens,
                batch.cu_q_lens,
                layer=layer,
                plan=batch.plan,
            )

        return jax.lax.fori_loop(0, config.num_layers, layer, carry)

    return jax.lax.fori_loop(0, num_steps, step, (cache, query))


def time_attention(
    config: LlamaConfig, generation: Generation, prompt_lens: np.ndarray
) -> float:
    """Seconds that attention took in the decode loop of a generation.

    Replays its plans, appends and attention with the same lengths and pages, and with
    random queries, keys and values, which the time does not depend on. Overwrites the
    generated part of generation.cache, which is donated.
    """
    num_seqs = len(prompt_lens)
    dtype = generation.cache.k_pages.dtype
    shapes = (config.num_q_heads, config.num_kv_heads)
    query, key = (
        jax.random.normal(jax.random.key(i), (num_seqs, heads, config.head_dim), dtype)
        for i, heads in enumerate(shapes)
    )
    operands = (
        generation.cache,
        query,
        key,
        jnp.asarray(generation.page_table),
        jnp.asarray(prompt_lens),
        jnp.asarray(generation.kv_lens),
        jnp.int32(generation.num_steps),
    )
    run = replay.lower(config, *operands).compile()
    start = time.perf_counter()
    jax.block_until_ready(run(*operands))
    return time.perf_counter() - start
