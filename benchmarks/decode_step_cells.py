# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The cells of the decode step: batches, lengths, and what stands for attention."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.llama_8b import Sizes
from benchmarks.peers import in_jax

PAGE_SIZE = 16
LENGTHS = ((512, 2048), (1024, 1024), (4096, 16384))


@dataclasses.dataclass(frozen=True)
class Cell:
    """A batch and its lengths.

    Attributes:
      batch: sequences.
      low: the shortest length.
      high: the longest; all are alike if it is `low`.
      sizes: of the model.
    """

    batch: int
    low: int
    high: int
    sizes: Sizes

    @property
    def name(self) -> str:
        """As of other cases, with the range of lengths."""
        s = self.sizes
        span = f"{self.low}-{self.high}_uniform"
        lengths = f"{self.low}_const" if self.low == self.high else span
        heads = f"{s.num_q_heads}x{s.num_kv_heads}_d{s.head_dim}"
        return f"b{self.batch}_kv{lengths}_{heads}_p{PAGE_SIZE}_bf16"

    @property
    def kv_lens(self) -> np.ndarray:
        """i32[B], the token of the step included."""
        rng = np.random.default_rng(self.batch)
        return rng.integers(self.low, self.high + 1, self.batch, dtype=np.int32)

    @property
    def num_pages(self) -> int:
        """Of all sequences together."""
        return int((-(-self.kv_lens // PAGE_SIZE)).sum())

    def page_table(self, width: int) -> np.ndarray:
        """i32[B, width], random pages, each in one sequence."""
        counts = -(-self.kv_lens // PAGE_SIZE)
        table = np.zeros((self.batch, width), np.int32)
        pages = np.random.default_rng(0).permutation(self.num_pages)
        table[np.arange(width) < counts[:, None]] = pages
        return table


def _identity(query, *_, **__):
    return query


def _paged_xla(query, k, v, table, kv_lens, *_, layer, **__):
    return in_jax.paged_xla(query, k[layer], v[layer], table, kv_lens)


def _dense(implementation):
    def attend(query, k, v, table, kv_lens, *_, **__):
        op: Any = jax.nn.dot_product_attention
        one = jnp.ones_like(kv_lens)
        lens = {"query_seq_lengths": one} if implementation == "cudnn" else {}
        out = op(
            query[:, None],
            k[0],
            v[0],
            key_value_seq_lengths=kv_lens,
            implementation=implementation,
            **lens,
        )
        return out[:, 0]

    return attend


# What stands in for jaxinfer's attention, and whether its cache is padded.
VARIANTS: dict[str, tuple[Any, bool]] = {
    "jaxinfer": (None, False),
    "identity": (_identity, False),
    "xla": (_paged_xla, False),
    "cudnn dense": (_dense("cudnn"), True),
    "xla dense": (_dense("xla"), True),
}
