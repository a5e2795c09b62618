# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""RaggedBatch: the lengths of one step, with all that follows from them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxinfer._plan import PlanConfig
from jaxinfer.cache import PagedKVCache
from jaxinfer.ops.plan import plan
from jaxinfer.ops.update_kv_pages import token_slots


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["page_table", "kv_lens", "cu_q_lens", "positions", "slots", "plan"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class RaggedBatch:
    """The sequences of one step, and what follows from their lengths alone.

    Made once a step by `create`, on the host or inside jit, and passed to all layers.
    T tokens, B sequences.

    Attributes:
      page_table: i32[B, max_pages].
      kv_lens: i32[B], the tokens of this step included.
      cu_q_lens: i32[B + 1]; None = one token per sequence.
      positions: i32[T] of every token in its sequence; 0 for padding rows.
      slots: i32[T], where its key and value go; -1 = nowhere.
      plan: jaxinfer.Plan for layers of the planned mask.
    """

    page_table: Any
    kv_lens: Any
    cu_q_lens: Any
    positions: Any
    slots: Any
    plan: Any

    @classmethod
    def create(
        cls,
        cache: PagedKVCache,
        page_table: Any,
        kv_lens: Any,
        cu_q_lens: Any = None,
        *,
        num_tokens: int,
        num_q_heads: int,
        is_active: Any = None,
        is_causal: bool = True,
        local_window_size: int | tuple[int | None, int | None] | None = None,
        config: PlanConfig | None = None,
    ) -> "RaggedBatch":
        """Computes positions, slots and the plan of a step.

        Args:
          cache: gives the page size, the KV heads and the head dim.
          page_table: i32[B, max_pages].
          kv_lens: i32[B], the tokens of this step included.
          cu_q_lens: i32[B + 1]; None = one token per sequence.
          num_tokens: T, padding rows included.
          num_q_heads: N of the layers.
          is_active: bool[B]; nothing is cached for the other sequences. A finished
            sequence keeps q_len 1 and its kv_len.
          is_causal: as of the layers.
          local_window_size: as of the layers.
          config: as in jaxinfer.plan.
        """
        page_table, kv_lens = jnp.asarray(page_table), jnp.asarray(kv_lens)
        cu_q_lens = cu_q_lens if cu_q_lens is None else jnp.asarray(cu_q_lens)
        num_pages, page_size, num_kv_heads, head_dim = cache.k_pages.shape[1:]
        return cls(
            page_table,
            kv_lens,
            cu_q_lens,
            _positions(kv_lens, cu_q_lens, num_tokens),
            token_slots(
                page_table,
                kv_lens,
                cu_q_lens,
                num_tokens=num_tokens,
                num_pages=num_pages,
                page_size=page_size,
                is_active=is_active,
            ),
            plan(
                cu_q_lens,
                kv_lens,
                num_tokens=num_tokens,
                max_kv_len=page_table.shape[1] * page_size,
                num_q_heads=num_q_heads,
                num_kv_heads=num_kv_heads,
                head_dim=head_dim,
                is_causal=is_causal,
                local_window_size=local_window_size,
                config=config,
            ),
        )

    def with_window(
        self, local_window_size: int | tuple[int | None, int | None] | None
    ) -> "RaggedBatch":
        """The same batch planned for layers with another window."""
        facts = self.plan.facts
        replanned = plan(
            self.cu_q_lens,
            self.kv_lens,
            num_tokens=facts.num_tokens,
            max_kv_len=facts.max_kv_len,
            num_q_heads=facts.num_q_heads,
            num_kv_heads=facts.num_kv_heads,
            head_dim=facts.head_dim,
            is_causal=facts.is_causal,
            local_window_size=local_window_size,
            config=facts.config,
        )
        return dataclasses.replace(self, plan=replanned)


def _positions(kv_lens: Any, cu_q_lens: Any, num_tokens: int) -> jax.Array:
    """i32[T]: kv_len - q_len + i for token i of a sequence, 0 for padding rows."""
    num_seqs = kv_lens.shape[0]
    if cu_q_lens is None:  # the last position of each
        last = jnp.pad(kv_lens - 1, (0, max(num_tokens - num_seqs, 0)))
        return last[:num_tokens].astype(jnp.int32)
    rows = jnp.arange(num_tokens, dtype=jnp.int32)
    seq = jnp.searchsorted(cu_q_lens[1:], rows, side="right")
    end = jnp.minimum(seq, num_seqs - 1)
    positions = kv_lens[end] - cu_q_lens[end + 1] + rows
    return jnp.where(seq < num_seqs, positions, 0).astype(jnp.int32)
