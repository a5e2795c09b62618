# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Which blocks of (queries, keys) a mask hides, shows or cuts through."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

HIDDEN, MIXED, SHOWN = 0, 1, 2


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["states"],
    meta_fields=["block_q", "block_kv", "of_all_seqs", "of_all_heads"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class BlockMap:
    """The mask of a variant, block by block (FlexAttention's block mask).

    Attributes:
      states: u8[B, N, Q blocks, KV blocks]: 0 all hidden, 1 mixed, 2 all shown.
      block_q: positions of queries in a block.
      block_kv: positions of keys in a block.
      of_all_seqs: B is 1, and what it says holds for every sequence.
      of_all_heads: N is 1, and what it says holds for every head.
    """

    states: Any
    block_q: int
    block_kv: int
    of_all_seqs: bool
    of_all_heads: bool

    @property
    def constant(self) -> str:
        """The numbers of struct BlockMap behind its operand."""
        seqs, heads, rows, keys = self.states.shape
        seqs *= not self.of_all_seqs
        heads *= not self.of_all_heads
        return f"{seqs}, {heads}, {rows}, {keys}, {self.block_q}, {self.block_kv}"


def make_block_map(
    mask_mod: Callable[..., Any],
    *,
    num_seqs: int | None,
    num_q_heads: int | None,
    q_len: int,
    kv_len: int,
    block_q: int,
    block_kv: int,
) -> BlockMap:
    """Evaluates a mask everywhere, a row of blocks at a time.

    Args:
      mask_mod: of a Variant.
      num_seqs: B, or None if all sequences have the same mask.
      num_q_heads: N, or None if all heads have.
      q_len: positions of queries, from 0.
      kv_len: positions of keys, from 0.
      block_q: positions of queries in a block.
      block_kv: positions of keys in a block.
    """

    def arange(size):
        return jnp.arange(size, dtype=jnp.int32)

    num_rows, num_keys = -(-q_len // block_q), -(-kv_len // block_kv)
    mask = mask_mod
    for axes in ((None, None, None, 0), (None, None, 0, None)):
        mask = jax.vmap(mask, axes)

    def row_of_blocks(place):
        seq, head, row = place
        rows = row * block_q + arange(block_q)
        seen = mask(seq, head, rows, arange(num_keys * block_kv))
        seen = seen.reshape(block_q, num_keys, block_kv)
        some, every = seen.any((0, 2)), seen.all((0, 2))
        return jnp.where(every, SHOWN, jnp.where(some, MIXED, HIDDEN)).astype(jnp.uint8)

    shape = (num_seqs or 1, num_q_heads or 1, num_rows)
    places = jnp.meshgrid(*map(arange, shape), indexing="ij")
    states = jax.lax.map(row_of_blocks, tuple(x.ravel() for x in places))
    states = states.reshape(*shape, num_keys)
    return BlockMap(states, block_q, block_kv, num_seqs is None, num_q_heads is None)
