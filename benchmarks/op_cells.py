# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The cells of the ops around attention: append, rotary embedding, merge, plan."""

import dataclasses

import numpy as np

from jaxinfer.testing.cases import AttentionCase, decode_cases

PLAN_BATCHES = (1, 128, 1024)


@dataclasses.dataclass(frozen=True)
class TokenCell:
    """New tokens of one layer.

    Attributes:
      num_tokens: T, one for each of as many sequences.
      num_q_heads: N.
      num_kv_heads: K.
      head_dim: H.
      page_size: tokens in a page.
      num_pages: of the cache.
    """

    num_tokens: int
    num_q_heads: int = 32
    num_kv_heads: int = 8
    head_dim: int = 128
    page_size: int = 16
    num_pages: int = 8192

    @property
    def name(self) -> str:
        """t{T}_{N}x{K}_d{H}_p{page_size}_bf16."""
        heads = f"{self.num_q_heads}x{self.num_kv_heads}"
        return f"t{self.num_tokens}_{heads}_d{self.head_dim}_p{self.page_size}_bf16"

    @property
    def append_bytes(self) -> int:
        """K and V of the tokens, read and written."""
        return 2 * 2 * 2 * self.num_tokens * self.num_kv_heads * self.head_dim

    @property
    def rope_bytes(self) -> int:
        """Queries and keys of the tokens, read and written."""
        heads = self.num_q_heads + self.num_kv_heads
        return 2 * 2 * self.num_tokens * heads * self.head_dim

    def slots(self, count: int) -> list[np.ndarray]:
        """`count` lists of slots, a page for each token."""
        rng = np.random.default_rng(self.num_tokens)
        lists = []
        for _ in range(count):
            pages = rng.permutation(self.num_pages)[: self.num_tokens]
            offset = rng.integers(self.page_size, size=self.num_tokens)
            lists.append((pages * self.page_size + offset).astype(np.int32))
        return lists

    def positions(self) -> np.ndarray:
        """Of each token in its sequence."""
        rng = np.random.default_rng(self.num_tokens)
        return rng.integers(131072, size=self.num_tokens, dtype=np.int32)


TOKENS = (TokenCell(64), TokenCell(4096))
TINY_TOKENS = (TokenCell(3, 4, 2, 64, num_pages=8),)


def plan_cells() -> list[AttentionCase]:
    """Decode batches of 1, 128 and 1024 sequences."""
    return decode_cases(PLAN_BATCHES, (4096,))
